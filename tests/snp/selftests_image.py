# SPDX-License-Identifier: Apache-2.0
"""The kernel's own self-tests, built from Debian's source of that kernel, for the small guest.

All static and 64 bit, by the kernel's own makefiles. Not in PROGRAMS is what needs 32 bit
(entry_from_vm86 and others), what `-cpu EPYC-Milan` under TCG lacks (amx, lam, test_shadow_stack),
what has not been tried with it (pkeys), libraries that are not there (libcap, libnuma, libpopt),
files beside it (execveat), huge pages, minutes of time (syscall_numbering, pidfd_poll_test, most of
timers), an idle machine (posix_timers; uffd-unit-tests, which hangs now and then in a plain guest
as well), and what fails in such a plain guest (mincore, vmaccess, cs_prctl_test, mrelease_test,
mremap_test, on-fault-limit, split_huge_page_test, basic_percpu_ops_test, pidfd_test).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from cpcctl.demo import image
from cpcctl.setup import debian, store
from cpcctl.setup.kernels import SUITES

# What the guest's kernel is emulated for first: entries, exits, faults, vDSO, segments, ports.
X86 = (
    "check_initial_reg_state corrupt_xstate_header fsgsbase fsgsbase_restore ioperm iopl ldt_gdt "
    "mov_ss_trap ptrace_syscall sigaltstack sigreturn sigtrap_loop single_step_syscall "
    "syscall_arg_fault syscall_nt sysret_rip sysret_ss_attrs test_mremap_vdso test_vsyscall"
)
# The memory management's; the folder has changed its name.
MM = "madv_populate map_fixed_noreplace map_populate mlock2-tests mremap_dontunmap soft-dirty"
OTHERS = {
    "breakpoints": "breakpoint_test",
    "core": "close_range_test",
    "fpu": "test_fpu",
    "futex/functional": "futex_requeue futex_requeue_pi futex_requeue_pi_mismatched_ops "
    "futex_requeue_pi_signal_restart futex_wait futex_wait_private_mapped_file "
    "futex_wait_timeout futex_wait_uninitialized_heap futex_wait_wouldblock futex_waitv",
    "ipc": "msgque",
    "kcmp": "kcmp_test",
    "membarrier": "membarrier_test_single_thread membarrier_test_multi_thread",
    "pidfd": "pidfd_getfd_test pidfd_open_test pidfd_setns_test pidfd_wait",
    "prctl": "disable-tsc-test",
    "proc": "proc-pid-vm proc-self-map-files-001 proc-self-syscall proc-uptime-001 proc-uptime-002 "
    "read",
    "ptrace": "get_syscall_info peeksiginfo",
    "rlimits": "rlimits-per-userns",
    "rseq": "basic_test",
    "sigaltstack": "sas",
    "syscall_user_dispatch": "sud_test",
    "timens": "clock_nanosleep futex procfs timens timer timerfd",
    "timers": "nanosleep",
    "vDSO": "vdso_standalone_test_x86 vdso_test_abi vdso_test_clock_getres "
    "vdso_test_correctness vdso_test_getcpu vdso_test_gettimeofday",
}
PROGRAMS = {
    "6.1": {"x86": X86, "vm": MM, **OTHERS},
    "6.12": {
        "x86": f"{X86} nx_stack",
        "mm": f"{MM} cow mdwe_test mkdirty mseal_test",
        **OTHERS,
    },
}
PARTS = ("Makefile", "arch/x86", "include", "mm/gup_test.h", "scripts", "tools")
STEP_SECONDS = 600.0


def names(version: str) -> list[str]:
    """Every program taken of that kernel's, with its folder."""
    return [
        f"{folder}/{name}" for folder, all_ in PROGRAMS[version].items() for name in all_.split()
    ]


def run(argv: list[str | Path], folder: Path) -> None:
    """Run a step of the build, as if no make had started it. Raises ImageError with its words."""
    outer = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "CFLAGS", "LDFLAGS")
    env = {name: value for name, value in os.environ.items() if name not in outer}
    done = subprocess.run(
        argv, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=STEP_SECONDS
    )
    if done.returncode != 0:
        raise image.ImageError(f"{argv[0]}: {(done.stderr or done.stdout)[-2000:]}")


def source(version: str, out: Path) -> Path:
    """Fetch and unpack what the self-tests need of the kernel's source; its top."""
    name = f"linux-source-{version}"
    (package,) = debian.fetch([name], SUITES[version])
    debian.unpack(package, out)
    parts = [f"{name}/{part}" for part in PARTS]
    run(["tar", "-xJf", out / f"usr/src/{name}.tar.xz", *parts], out)
    run(["make", "headers"], out / name)
    return out / name


def compile_all(top: Path, version: str, tree: Path) -> None:
    """Every program, into folders below tree."""
    for folder, all_ in PROGRAMS[version].items():
        here = top / "tools/testing/selftests" / folder
        place = tree / folder
        place.mkdir(parents=True)
        suffix = "_64" if folder == "x86" else ""
        built = {name: here / f"{name}{suffix}" for name in all_.split()}
        if folder == "rseq":  # its makefile wants a shared library
            for name, target in built.items():
                flags = ["-O2", "-D_GNU_SOURCE", "-pthread", "-I.", f"-I{top}/tools/include"]
                flags += ["-isystem", f"{top}/usr/include", f"{name}.c", "rseq.c"]
                run(["gcc", "-static", "-w", *flags, "-o", target], here)
        else:
            # As if 32 bit could be built: that adds tests of `int $0x80` to the 64-bit ones.
            flags = ["CC=gcc -static -w", "CAN_BUILD_I386=1", "CAN_BUILD_X86_64=1"]
            flags += ["CAN_BUILD_WITH_NOPIE=1", f"KHDR_INCLUDES=-isystem {top}/usr/include"]
            run(["make", *flags, *built.values()], here)
        for name, target in built.items():
            run(["strip", "-o", place / name, target], here)


def provide(version: str) -> Path:
    """The archive with that kernel's self-tests in /selftests; built once.

    Raises AptError, ImageError, CalledProcessError.
    """

    def build(folder: Path) -> None:
        unpacked, tree = folder / "unpacked", folder / "tree"
        compile_all(source(version, unpacked), version, tree / "selftests")
        image.archive(tree, folder / "selftests.cpio")
        for done in (unpacked, tree):
            shutil.rmtree(done)

    key = store.key([version], [Path(__file__)])
    return store.provide(f"test-selftests-{version}", key, build) / "selftests.cpio"
