# SPDX-License-Identifier: Apache-2.0
"""What the launch of an SEV-SNP guest with hvCPUs puts into its memory and measures.

The same bytes that QEMU's hw/i386/cpc/cpc-snp.c and target/i386/tcg/sev/vmsa.c make:
the firmware, its boot information, its first page tables, and a save area a vCPU.
"""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass

from cpcctl import abi
from cpcctl.snp.package import part

_PRESENT, _WRITE, _LARGE = 1 << 0, 1 << 1, 1 << 7
_2M = 2 << 20
# Every processor with SEV-SNP has them.
_FEATURES = abi.CPU_AES | abi.CPU_VAES | abi.CPU_RDSEED | abi.CPU_RDRAND


@dataclass(frozen=True)
class FirmwareLaunch:
    """image: the firmware file; memory and ring sizes in bytes; c_bit: its position;

    ap_reset: address in OVMF where a vCPU but the first starts.
    launch:   guest memory that the launch validates beside this, (address, bytes): OVMF,
              then the sections of its metadata in their order; at most SNP_LAUNCH.
    """

    image: bytes
    hvcpu_max: int
    max_vcpus: int
    max_memory: int
    ring_size: int
    shm_size: int
    ap_reset: int
    launch: tuple[tuple[int, int], ...]
    c_bit: int = 51

    @property
    def _header(self) -> abi.ImageHeader:
        return abi.ImageHeader.from_buffer_copy(self.image)

    @property
    def _tables(self) -> int:
        """Offset of the boot page tables in trusted memory."""
        return int(self._header.memory_size) + abi.PAGE_SIZE

    @property
    def _boot(self) -> abi.BootInfo:
        max_pages = abi.MAX_PAGES(self.max_memory)
        vmsa = self._tables + abi.SNP_BOOT_TABLES * abi.PAGE_SIZE
        free = vmsa + self.max_vcpus * abi.VMSA_STRIDE
        size = free + abi.TABLES_BYTES(max_pages, self.hvcpu_max)
        return abi.BootInfo(
            magic=abi.BOOT_MAGIC,
            abi=abi.ABI_VERSION,
            platform=abi.PLATFORM_SEV_SNP,
            hvcpu_max=self.hvcpu_max,
            gvcpu_max=self.max_vcpus,
            vmsa_stride=abi.VMSA_STRIDE,
            trusted_size=(size + _2M - 1) // _2M * _2M,
            free_base=abi.TRUSTED_BASE + free,
            shm_size=self.shm_size,
            ring_size=self.ring_size,
            bitmap_offset=abi.SHM_BITMAP,
            max_pages=max_pages,
            region_table=0,
            vmsa_base=abi.TRUSTED_BASE + vmsa,
            trusted_gpa=abi.SNP_TRUSTED_GPA,
            shm_gpa=abi.SNP_SHM_GPA,
            mmio_gpa=abi.SNP_MMIO_GPA,
            c_bit=1 << self.c_bit,
            cpu_features=_FEATURES,
            incoming=0,
            ap_reset=self.ap_reset,
            launch_ranges=len(self.launch),
            launch=tuple((at, size // abi.PAGE_SIZE) for at, size in self.launch),
        )

    def content(self) -> tuple[bytes, int]:
        """The pages with content from SNP_TRUSTED_GPA on, and how many bytes of zero follow."""
        boot = self._boot
        memory = bytearray(self._tables + abi.SNP_BOOT_TABLES * abi.PAGE_SIZE)
        memory[: len(self.image)] = self.image
        at = int(self._header.memory_size)
        memory[at : at + ctypes.sizeof(boot)] = bytes(boot)
        memory[self._tables :] = self._page_tables(int(boot.trusted_size))
        return bytes(memory), int(boot.trusted_size) - len(memory)

    def _page_tables(self, trusted_size: int) -> bytes:
        flags = 1 << self.c_bit | _PRESENT | _WRITE
        base = abi.SNP_TRUSTED_GPA + self._tables
        offset = abi.SNP_TRUSTED_GPA - abi.TRUSTED_BASE
        levels = [[0] * 512 for _ in range(abi.SNP_BOOT_TABLES)]
        for level in range(3):
            levels[level][0] = base + (level + 1) * abi.PAGE_SIZE | flags
        for va in range(abi.TRUSTED_BASE, _2M, abi.PAGE_SIZE):
            levels[3][va // abi.PAGE_SIZE] = va + offset | flags
        for va in range(_2M, abi.TRUSTED_BASE + trusted_size, _2M):
            levels[2][va // _2M] = va + offset | flags | _LARGE
        return b"".join(struct.pack("<512Q", *level) for level in levels)

    def save_area(self, rdi: int) -> bytes:
        """The page of registers that a vCPU starts from in the firmware."""
        vmsa = part("vmsa")
        data, header = vmsa.VmcbSeg(0x10, 0xC93, 0xFFFFFFFF, 0), self._header
        area = vmsa.SevEsSaveArea(
            es=data, ss=data, ds=data, fs=data, gs=data,
            cs=vmsa.VmcbSeg(0x08, 0xA9B, 0xFFFFFFFF, 0),
            ldtr=vmsa.VmcbSeg(0, 0x82, 0xFFFF, 0), tr=vmsa.VmcbSeg(0, 0x8B, 0xFFFF, 0),
            efer=0x1D01, cr0=0x80010033, cr4=0x40660,
            cr3=abi.SNP_TRUSTED_GPA + self._tables,
            dr7=0x400, dr6=0xFFFF0FF0, rflags=0x2,
            rip=abi.TRUSTED_BASE + header.entry, rdi=rdi,
            rsi=abi.TRUSTED_BASE + header.memory_size,
            g_pat=0x7040600070406, sev_features=1, xcr0=7, mxcsr=0x1F80, x87_fcw=0x37F,
        )  # fmt: skip
        return bytes(area)
