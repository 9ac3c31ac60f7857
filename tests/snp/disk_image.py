# SPDX-License-Identifier: Apache-2.0
"""A disk that UEFI starts from: a FAT file system with one program in it, which is a kernel,
its command line and an initrd behind systemd's stub (a unified kernel image)."""

from __future__ import annotations

import subprocess
from pathlib import Path

from cpcctl.setup import debian, store

PACKAGES = ["dosfstools", "mtools", "systemd-boot-efi"]
APPEND = "console=ttyS0 panic=-1"
MIB = 48
# Behind the stub's own sections.
ADDRESSES = {".osrel": 0x20000, ".cmdline": 0x30000, ".linux": 0x2000000, ".initrd": 0x4000000}


def _run(*argv: str | Path) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv[0]}: {done.stderr}"


def _program(stub: Path, sections: dict[str, Path], out: Path) -> None:
    words = [
        word
        for name, path in sections.items()
        for word in (
            "--add-section", f"{name}={path}", "--change-section-vma", f"{name}={ADDRESSES[name]}",
        )
    ]  # fmt: skip
    _run("objcopy", *words, stub, out)


def disk(vmlinuz: Path, initrd: Path) -> Path:
    """The image, raw, made once and kept in the store: nobody writes to it."""
    suite = debian.release()

    def build(folder: Path) -> None:
        tools, program, image = folder / "tools", folder / "program", folder / "disk"
        for path in debian.fetch(PACKAGES, suite):
            debian.unpack(path, tools)
        (folder / "release").write_text("ID=test\n")
        (folder / "append").write_text(APPEND)
        _program(
            next(tools.rglob("linuxx64.efi.stub")),
            {
                ".osrel": folder / "release", ".cmdline": folder / "append",
                ".linux": vmlinuz, ".initrd": initrd,
            },
            program,
        )  # fmt: skip
        with image.open("wb") as file:
            file.truncate(MIB << 20)
        _run(next(tools.rglob("mkfs.fat")), image)
        mtools = tools / "usr/bin/mtools"
        _run(mtools, "-c", "mmd", "-i", image, "::/EFI", "::/EFI/BOOT")
        _run(mtools, "-c", "mcopy", "-i", image, program, "::/EFI/BOOT/BOOTX64.EFI")

    made_from = [Path(__file__), vmlinuz, initrd]
    return store.provide("test-disk", store.key([suite], made_from), build) / "disk"
