# SPDX-License-Identifier: GPL-2.0-or-later
"""fetch_bios.py FOLDER: the BIOS and option ROMs a PC needs, from Debian's packages."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cpcctl.setup import debian

PACKAGES = ["seabios", "qemu-system-data", "ipxe-qemu"]
FILES = [
    "bios.bin",
    "bios-256k.bin",
    "vgabios-stdvga.bin",
    "kvmvapic.bin",
    "linuxboot_dma.bin",
    "multiboot_dma.bin",
    "pvh.bin",
    "efi-virtio.rom",
    "efi-e1000e.rom",
    "efi-e1000.rom",
]


def main(folder: Path) -> None:
    """Copy FILES there; raises if a package lacks one."""
    with tempfile.TemporaryDirectory() as scratch:
        for path in debian.fetch(PACKAGES, debian.release()):
            debian.unpack(path, Path(scratch))
        for name in FILES:
            found = [p for p in sorted(Path(scratch).rglob(name)) if p.is_file()]
            if not found:
                sys.exit(f"error: none of {' '.join(PACKAGES)} holds {name}")
            shutil.copy(found[0], folder / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
