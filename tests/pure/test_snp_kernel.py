# SPDX-License-Identifier: Apache-2.0
"""Whether a kernel can be an SEV-SNP guest, from its file and its configuration."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpcctl.snp import kernel

DEBIAN = "6.12.48+deb13-cloud-amd64 (debian-kernel@lists.debian.org) #1 SMP PREEMPT_DYNAMIC"
NAME = "6.12.48+deb13-cloud-amd64"


def image(text: str, offset: int = 0x3000) -> bytes:
    """The head of a bzImage with that version text."""
    head = bytearray(kernel.HEAD)
    head[kernel.MAGIC_AT : kernel.MAGIC_AT + 4] = kernel.MAGIC
    struct.pack_into("<H", head, kernel.VERSION_AT, offset)
    words = text.encode() + b"\0"
    head[0x200 + offset : 0x200 + offset + len(words)] = words
    return bytes(head)


def test_the_release_of_a_kernel() -> None:
    assert kernel.release(image(DEBIAN)) == NAME
    assert kernel.release(image("5.4.0")) == "5.4.0"


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"", "bzImage"),
        (b"MZ" + bytes(4000), "bzImage"),
        (image(""), "does not say its version"),
        (image(DEBIAN).replace(b"\0\x30", b"\0\0", 1), "does not say its version"),
        (image("../../../etc/shadow"), "does not say its version"),
        (image(DEBIAN)[:0x206], "does not say its version"),
    ],
)
def test_what_is_none(head: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        kernel.release(head)


@given(st.binary(max_size=2048), st.binary(max_size=64))
def test_any_head_is_read_or_refused(head: bytes, text: bytes) -> None:
    magic = head.ljust(0x202, b"\0")[:0x202] + b"HdrS" + head + text
    for data in (head, magic):
        try:
            found = kernel.release(data)
        except ValueError:
            continue
        # It becomes a part of a file's name.
        assert "/" not in found and found.isprintable()


@pytest.mark.parametrize(
    ("release", "config", "words"),
    [
        ("6.1.0-37-amd64", None, ""),
        ("5.19.0", None, ""),
        ("5.18.19", None, "older than 5.19"),
        ("4.20.0", None, "older than 5.19"),
        ("6.1.0", "CONFIG_X=y\nCONFIG_AMD_MEM_ENCRYPT=y\n", ""),
        ("6.1.0", "# CONFIG_AMD_MEM_ENCRYPT is not set\n", "without CONFIG_AMD_MEM_ENCRYPT=y"),
        ("6.1.0", "NO_CONFIG_AMD_MEM_ENCRYPT=y\n", "without CONFIG_AMD_MEM_ENCRYPT=y"),
        ("5.4.0", "CONFIG_AMD_MEM_ENCRYPT=y\n", "older than 5.19"),
    ],
)
def test_what_does_not_do(release: str, config: str | None, words: str) -> None:
    found = kernel.problem(release, config)
    assert words in found
    assert bool(words) == bool(found)


def test_the_configuration_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "vmlinuz"
    path.write_bytes(image(DEBIAN) + b"the rest")
    assert kernel.look(path) == ""
    config = tmp_path / f"config-{NAME}"
    config.write_text("CONFIG_AMD_MEM_ENCRYPT=y\n")
    assert kernel.look(path) == ""
    config.write_text("# CONFIG_AMD_MEM_ENCRYPT is not set\n")
    assert kernel.look(path).startswith(f"{path}: Linux {NAME} is built without")
    # Where the link leads is where the distribution put both.
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "vmlinuz"
    link.symlink_to(path)
    assert "is built without" in kernel.look(link)
    path.write_bytes(b"\x7fELF")
    assert "bzImage" in kernel.look(path)


def test_the_configuration_below_usr_lib_modules(tmp_path: Path) -> None:
    """Where Debian puts both since Linux 6.19; only a folder of that release is one of its."""
    for folder, words in ((NAME, "is built without"), ("somewhere", "")):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "vmlinuz"
        path.write_bytes(image(DEBIAN))
        (tmp_path / folder / "config").write_text("# CONFIG_AMD_MEM_ENCRYPT is not set\n")
        assert words in kernel.look(path) and bool(words) == bool(kernel.look(path))
