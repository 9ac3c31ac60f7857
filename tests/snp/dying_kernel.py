# SPDX-License-Identifier: Apache-2.0
"""A kernel that does nothing but end the guest by a GHCB termination request.

To QEMU and to cpcctl it has the header of a bzImage, to OVMF it is a UEFI
program, as Linux is both.
"""

from __future__ import annotations

import struct

SETUP_SECTORS = 7
CODE_AT = (SETUP_SECTORS + 1) * 512
PE_AT, VERSION_AT = 0x80, 0x400
AMD64, EXECUTABLE, EFI_APPLICATION, PE32_PLUS = 0x8664, 0x22E, 10, 0x20B
READ_EXECUTE_CODE = 0x60000020
DIRECTORIES = 6


def _code(reason_set: int, reason: int) -> bytes:
    request = 0x100 | reason_set << 12 | reason << 16
    return (
        b"\xb9" + struct.pack("<I", 0xC0010130)  # mov $GHCB MSR, %ecx
        + b"\xb8" + struct.pack("<I", request)  # mov $request, %eax
        + b"\x31\xd2\x0f\x30"  # xor %edx, %edx; wrmsr
        + b"\xf3\x0f\x01\xd9"  # vmgexit
        + b"\xf4\xeb\xfd"  # hlt, for ever
    )


def _linux_header(image: bytearray) -> None:
    image[0x1F1] = SETUP_SECTORS
    struct.pack_into("<I", image, 0x1F4, 0x20)  # what follows the setup code, in 16 bytes
    struct.pack_into("<H2s4sH", image, 0x1FE, 0xAA55, b"\xeb\x66", b"HdrS", 0x20F)
    struct.pack_into("<H", image, 0x20E, VERSION_AT - 0x200)
    image[0x211] = 1  # loaded high
    struct.pack_into("<II", image, 0x22C, 0x7FFFFFFF, 1 << 20)
    struct.pack_into("<I", image, 0x238, 2047)  # the longest command line
    image[VERSION_AT : VERSION_AT + 12] = b"6.1.0-dying\0"


def _uefi_header(image: bytearray) -> None:
    optional = struct.pack(
        "<HBBIIIII", PE32_PLUS, 0, 0, 512, 0, 0, CODE_AT, CODE_AT
    ) + struct.pack("<QIIHHHHHHIIIIHHQQQQII", 0, 4096, 512, 0, 0, 0, 0, 0, 0, 0, CODE_AT + 4096,
                    CODE_AT, 0, EFI_APPLICATION, 0, 0, 0, 0, 0, 0, DIRECTORIES)
    optional += bytes(8 * DIRECTORIES)
    section = struct.pack("<8sIIIIIIHHI", b".text", 4096, CODE_AT, 512, CODE_AT, 0, 0, 0, 0,
                          READ_EXECUTE_CODE)
    coff = struct.pack("<4sHHIIIHH", b"PE\0\0", AMD64, 1, 0, 0, 0, len(optional), EXECUTABLE)
    image[0:2] = b"MZ"
    struct.pack_into("<I", image, 0x3C, PE_AT)
    headers = coff + optional + section
    assert PE_AT + len(headers) <= 0x1F1
    image[PE_AT : PE_AT + len(headers)] = headers


def image(reason_set: int, reason: int) -> bytes:
    """The kernel's file."""
    made = bytearray(CODE_AT)
    _linux_header(made)
    _uefi_header(made)
    return bytes(made) + _code(reason_set, reason).ljust(512, b"\xf4")
