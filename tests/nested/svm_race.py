# SPDX-License-Identifier: Apache-2.0
"""Regression test of the emulated machine: python -m tests.nested.svm_race SECONDS

On CPU 0 a KVM guest of two instructions exits all the time; on CPU 1 a process
loads the FPU's state all the time. The two must not meet. An emulator that changes
flags of CPU 0 in the thread of CPU 1, as QEMU did, has the guest run with the
kernel's registers within a second. Exit status 1 then, or the nested kernel crashes.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import signal
import struct
import sys
import time
from typing import NoReturn

KVM_CREATE_VM = 0xAE01
KVM_GET_VCPU_MMAP_SIZE = 0xAE04
KVM_CREATE_VCPU = 0xAE41
KVM_RUN = 0xAE80
KVM_SET_USER_MEMORY_REGION = 0x4020AE46
KVM_GET_REGS, KVM_SET_REGS = 0x8090AE81, 0x4090AE82
KVM_GET_SREGS, KVM_SET_SREGS = 0x8138AE83, 0x4138AE84
REGS = struct.Struct("18Q")
SREGS_SIZE = 312
RSI, RIP, RFLAGS = 4, 16, 17

START = 0x1000
GUEST = b"\x0f\xa2\x66\x46\xeb\xfa"  # again: cpuid; inc %esi; jmp again
# fxsave (%rdi); ret, and from byte 16 on: again: fxrstor (%rdi); dec %rsi; jnz again; ret
FPU = b"\x0f\xae\x07\xc3".ljust(16, b"\x90") + b"\x0f\xae\x0f\x48\xff\xce\x75\xf8\xc3"


def load_fpu_state() -> NoReturn:
    """FXRSTOR on CPU 1, for ever."""
    os.sched_setaffinity(0, {1})
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(FPU)
    start = ctypes.addressof(ctypes.c_char.from_buffer(code))
    area = ctypes.create_string_buffer(1024)
    aligned = (ctypes.addressof(area) + 63) & ~63
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64)
    function(start)(aligned, 0)
    while True:
        function(start + 16)(aligned, 100_000)


def create(memory: mmap.mmap) -> tuple[int, mmap.mmap]:
    """A vCPU in real mode at START, and its kvm_run."""
    kvm = os.open("/dev/kvm", os.O_RDWR)
    vm = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
    memory[START : START + len(GUEST)] = GUEST
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    region = struct.pack("IIQQQ", 0, 0, 0, len(memory), address)
    fcntl.ioctl(vm, KVM_SET_USER_MEMORY_REGION, region)
    vcpu = fcntl.ioctl(vm, KVM_CREATE_VCPU, 0)
    sregs = bytearray(fcntl.ioctl(vcpu, KVM_GET_SREGS, bytes(SREGS_SIZE)))
    struct.pack_into("QIH", sregs, 0, 0, 0xFFFF, 0)  # CS starts at 0
    fcntl.ioctl(vcpu, KVM_SET_SREGS, bytes(sregs))
    regs = [0] * 18
    regs[RIP], regs[RFLAGS] = START, 2
    fcntl.ioctl(vcpu, KVM_SET_REGS, REGS.pack(*regs))
    return vcpu, mmap.mmap(vcpu, fcntl.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0))


def run(seconds: float) -> str:
    """Run the guest on CPU 0; what went wrong, or nothing."""
    os.sched_setaffinity(0, {0})
    libc = ctypes.CDLL(None, use_errno=True)
    memory = mmap.mmap(-1, 4 * mmap.PAGESIZE)
    vcpu, kvm_run = create(memory)
    regs: tuple[int, ...] = (0,) * 18
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 1, 1)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if libc.ioctl(vcpu, ctypes.c_ulong(KVM_RUN), 0) == 0:
            return f"KVM exit {struct.unpack_from('I', kvm_run, 8)[0]}"
        if ctypes.get_errno() != errno.EINTR:
            return f"KVM_RUN: {os.strerror(ctypes.get_errno())}"
        regs = REGS.unpack(fcntl.ioctl(vcpu, KVM_GET_REGS, bytes(REGS.size)))
        if regs[RIP] not in (START, START + 2, START + 4):
            return f"the guest is at 0x{regs[RIP]:x}"
    return "" if regs[RSI] else "the guest did not run"


def main() -> int:
    """The command line."""
    seconds = float(sys.argv[1])
    other = os.fork()
    if not other:
        load_fpu_state()
    try:
        wrong = run(seconds)
    finally:
        # Python takes its handler away before it ends, and a signal after that is the end of it.
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.kill(other, signal.SIGKILL)
        os.waitpid(other, 0)
    print(f"two CPUs at once, {seconds:g} s: {wrong or 'nothing went wrong'}", flush=True)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
