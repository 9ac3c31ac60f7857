# SPDX-License-Identifier: Apache-2.0
"""The firmware image and the cryptography in it, without any VM."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FIRMWARE = ROOT / "guest-agent" / "firmware"
PAGE = 4096
VECTORS = 9


def run(*command: str | Path) -> str:
    """Run a command that must succeed; return its standard output."""
    done = subprocess.run(
        [str(c) for c in command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def make(source: Path, goal: str, out: Path) -> str:
    """Build one goal of the firmware's Makefile into a folder."""
    return run("make", "-s", "-j2", "-C", source, goal, f"O={out}")


@pytest.fixture(scope="session")
def crypto_check(out: Path) -> Path:
    """The check program, linked with the same sources built for this process."""
    program = out / "crypto_check"
    run(
        *["gcc", "-std=c11", "-O1", "-D_GNU_SOURCE", "-Wl,--gc-sections"],
        *["-Wall", "-Wextra", "-Werror"],
        f"-I{FIRMWARE / 'core'}",
        f"-I{ROOT / 'guest-agent' / 'abi'}",
        "-o",
        program,
        Path(__file__).with_name("crypto_check.c"),
        out / "libcpc-host.a",
        "-lpthread",
    )
    return program


@pytest.mark.slow
def test_the_same_source_gives_the_same_bytes(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other source folder, other output folder, no compiler of the machine: equal images."""
    broken = tmp_path / "bin"
    broken.mkdir()
    for name in ("cc", "gcc", "as", "ld", "objcopy"):
        (broken / name).symlink_to("/bin/false")
    monkeypatch.setenv("PATH", str(broken), prepend=":")
    monkeypatch.setenv("CC", "false")
    copy = tmp_path / "a folder with quite another name".replace(" ", "-")
    for part in ("firmware", "abi", "kvm-probe"):
        shutil.copytree(ROOT / "guest-agent" / part, copy / "guest-agent" / part)
    make(copy / "guest-agent" / "firmware", "image", tmp_path / "out")
    first = (out / "cpc-firmware.bin").read_bytes()
    second = (tmp_path / "out" / "cpc-firmware.bin").read_bytes()
    assert first == second


@pytest.mark.slow
def test_a_change_in_the_source_changes_the_measurement(out: Path, tmp_path: Path) -> None:
    """The negative control of the test above, and what `make image` prints."""
    for part in ("firmware", "abi", "kvm-probe"):
        shutil.copytree(ROOT / "guest-agent" / part, tmp_path / "guest-agent" / part)
    version = tmp_path / "guest-agent" / "firmware" / "core" / "version.h"
    text = version.read_text()
    assert '"0.' in text
    version.write_text(re.sub(r'(CPC_FIRMWARE_VERSION) "[^"]*"', r'\1 "9.9.9"', text))
    # The libraries are the same, and their objects are kept.
    for part in ("aegis", "tls"):
        shutil.copytree(out / "image" / part, tmp_path / "out" / "image" / part)
    printed = make(tmp_path / "guest-agent" / "firmware", "image", tmp_path / "out")
    image = (tmp_path / "out" / "cpc-firmware.bin").read_bytes()
    assert image != (out / "cpc-firmware.bin").read_bytes()
    assert re.search(r"^version +9\.9\.9$", printed, re.M)
    assert re.search(rf"^size +{len(image)} bytes$", printed, re.M)
    digest = run("sha256sum", tmp_path / "out" / "cpc-firmware.bin").split()[0]
    assert re.search(rf"^measurement +sha256:{digest}$", printed, re.M)


def test_header(out: Path) -> None:
    """struct cpc_image_header describes the file and the ELF it was made from."""
    image = (out / "cpc-firmware.bin").read_bytes()
    magic, abi, size, memory, entry, cr3, version = struct.unpack_from("<6I40s", image)
    assert magic == 0x57464350
    assert abi == 5
    assert size == len(image)
    assert memory >= size and memory % PAGE == 0
    assert re.fullmatch(rb"[ -~]{1,39}\0+", version)
    symbols = {
        fields[2]: int(fields[0], 16)
        for fields in map(str.split, run("nm", out / "cpc-firmware.elf").splitlines())
        if len(fields) == 3
    }
    base = symbols["image_start"]
    assert base == 0x100000
    assert entry == symbols["entry"] - base and symbols["text_start"] <= base + entry
    assert cr3 == symbols["boot_pml4"] - base and cr3 % PAGE == 0
    assert memory == symbols["image_end"] - base
    # The boot tables: an identity map of 512 GiB in pages of 1 GiB.
    (pml4,) = struct.unpack_from("<Q", image, cr3)
    pdpt = struct.unpack_from("<512Q", image, (pml4 & ~0xFFF) - base)
    assert pdpt == tuple(gib << 30 | 0x83 for gib in range(512))


def test_nothing_is_undefined_or_left_to_start_up_code(out: Path) -> None:
    elf = out / "cpc-firmware.elf"
    assert run("nm", "--undefined-only", elf) == ""
    sections = run("readelf", "-SW", elf)
    assert not re.search(r"\.(init_array|ctors|dynamic|got|interp|tdata)\b", sections)


def test_nothing_is_writable_and_executable(out: Path) -> None:
    segments = re.findall(
        r"^ +LOAD +0x\w+ (0x\w+) 0x\w+ 0x\w+ (0x\w+) ([RWE ]{3}) ",
        run("readelf", "-lW", out / "cpc-firmware.elf"),
        re.M,
    )
    assert [flags.replace(" ", "") for _, _, flags in segments] == ["R", "RE", "R", "RW"]
    ends = 0
    for start, size, _ in segments:
        assert int(start, 16) % PAGE == 0
        assert int(start, 16) // PAGE >= ends, "two segments share a page"
        ends = -(-(int(start, 16) + int(size, 16)) // PAGE)


def test_entry_code_touches_no_vector_register(out: Path) -> None:
    """Until CR4 and XCR0 are set, such an instruction is an exception."""
    listing = run("objdump", "-d", "--no-show-raw-insn", out / "cpc-firmware.elf")
    body = listing.split("<entry>:", 1)[1].split("\n\n", 1)[0]
    before, found, _ = body.partition("xsetbv")
    assert found
    assert not re.search(r"%[xyz]mm", before)


@pytest.mark.parametrize("variant", ["aegis128l/aegis128l_aesni", "aegis128x2/aegis128x2_avx2"])
def test_sealing_loads_each_byte_once(out: Path, variant: str) -> None:
    """The compiled bulk loop has one load a store, and no two from one place.

    A compiler may load the same plaintext twice, once for the ciphertext and
    once for the tag; a guest that writes in between would break the proof.
    """
    listing = run("objdump", "-d", "--no-show-raw-insn", out / "image" / "aegis" / f"{variant}.c.o")
    body = listing.split("<encrypt_detached>:", 1)[1].split("\n\n", 1)[0].splitlines()
    checked = 0
    for number, line in enumerate(body):
        jump = re.search(r"\tj\w+ +([0-9a-f]+) ", line)
        start = next(
            (i for i, at in enumerate(body) if jump and at.strip().startswith(f"{jump[1]}:")),
            None,
        )
        if start is None or start >= number:
            continue
        loop = body[start:number]
        memory = [i for i in loop if re.search(r"mm.*\(%r|\(%r.*mm", i) and "(%rsp" not in i]
        stores = re.findall(r",(-?\w*\(%r[^)]*\))$", "\n".join(memory), re.M)
        loads = re.findall(r"\s(-?\w*\(%r[^)]*\)),", "\n".join(memory))
        straight = not any(re.search(r"\t(j|call)", i) for i in loop)
        if straight and stores and "aesenc" in "".join(loop):
            checked += 1
            assert len(loads) == len(stores) == len(set(loads)) == 2, "\n".join(loop)
    assert checked == 1


def test_known_answers_are_the_ones_that_were_computed_independently() -> None:
    committed = (FIRMWARE / "core" / "crypto_kat_data.c").read_text()
    assert committed == run(sys.executable, "-m", "tests.firmware.known_answers")
    assert committed.count(".suite =") == VECTORS


def test_every_primitive_and_suite_on_this_machine(crypto_check: Path) -> None:
    """Known answers match, any changed bit is noticed, shared bytes may change."""
    lines = run(crypto_check).splitlines()
    assert lines[0].startswith("suites 0x")
    assert int(lines[0].split()[1], 16) & 1 << 4, "ChaCha20-Poly1305 needs no hardware"
    assert len(lines) > 30
    assert all(line.startswith("ok ") for line in lines[1:])


@pytest.mark.parametrize("vector", range(VECTORS))
def test_a_corrupted_vector_fails_the_check(crypto_check: Path, vector: int) -> None:
    """The negative control: the check program can fail."""
    done = subprocess.run(
        [str(crypto_check), str(vector)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stdout == "FAIL corrupted-vector\n"


@pytest.mark.parametrize("name", ["libaegis", "mbedtls", "toolchain"])
def test_a_file_with_another_checksum_is_refused(tmp_path: Path, name: str) -> None:
    """Whatever its origin, only what is pinned is unpacked."""
    pins = (FIRMWARE / "third-party" / "pins").read_text().splitlines()
    given = tmp_path / "given"
    given.mkdir()
    for pin in pins:
        if pin.startswith(f"{name} "):
            (given / pin.split()[2]).write_bytes(b"not the library")
    done = subprocess.run(
        [str(FIRMWARE / "third-party" / "fetch.sh"), name],
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
            "CPC_CACHE": str(tmp_path / "cache"),
            f"CPC_{name.upper()}_FILES": str(given),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "is not the pinned one" in done.stderr
    assert done.stdout == ""
    assert list((tmp_path / "cache" / "third-party").iterdir()) == []
