# SPDX-License-Identifier: Apache-2.0
"""The emulated processor and hypervisor do what the manuals say, step by step.

Instructions: AMD64 Architecture Programmer's Manual, volume 3 (PVALIDATE, RMPADJUST,
RMPQUERY), and volume 2, 15.36. Requests: the GHCB specification, version 2. Where that
leaves room, or the emulation differs on purpose (docs/emulated-snp.md), it is said here.
"""

from __future__ import annotations

import pytest

from tests.snp.guest_image import MEMORY
from tests.snp.steps import (
    APIC,
    BAD_EVENT,
    BAD_SCRATCH,
    BAD_USAGE,
    BUFFER,
    FAIL_INPUT,
    FAIL_PERMISSION,
    FAIL_SIZEMISMATCH,
    FIRST,
    FLAG,
    GHCB,
    KERNEL_EXEC,
    LARGE,
    MISSING_INPUT,
    NOT_REGISTERED,
    NOT_VALIDATED,
    NPF,
    PRIVATE,
    PSC_REQUEST,
    READ,
    SAVE_AREA,
    SCRATCH,
    SECOND,
    SHARED,
    SHARED_PAGE,
    USAGE,
    USER_EXEC,
    VALID,
    WRITE,
    Follow,
    Steps,
    call,
    change,
    failed,
    msr,
    prepare,
    psc,
    pvalidate,
    read,
    refused,
    request,
    returns,
    rmpadjust,
    rmpquery,
    vmgexit,
    write,
)

PAGE = MEMORY["PLAY"]
BIG = 0x800000  # 2 MiB
EVERY = (1 << 64) - 1
# Page tables of start.S.
DIRECTORIES = MEMORY["TABLES"] + 0x1000
C_BIT, PRESENT, LARGE_ENTRY = 1 << 51, 3, 0x80
NINTH = 8 << 30
PF, UD = 14, 6


def runs(code: str) -> Steps:
    """Bytes of code, in hexadecimal, in a private page."""
    assert len(bytes.fromhex(code)) <= 8
    return [pvalidate(PAGE), write(PAGE, int.from_bytes(bytes.fromhex(code), "little")), call(PAGE)]


def invalid(field: int) -> int:
    """All fields are valid but this one: the half of the bitmap it is in."""
    return EVERY & ~(1 << field // 8 % 64)


PVALIDATE: dict[str, Steps] = {
    "validated twice, then rescinded twice": [
        pvalidate(PAGE).gives(eax=0, zf=1, cf=0),
        pvalidate(PAGE).gives(eax=0, zf=1, cf=1),
        pvalidate(PAGE, validate=0).gives(eax=0, zf=1, cf=0),
        pvalidate(PAGE, validate=0).gives(eax=0, zf=1, cf=1),
    ],
    "rescinding changes nothing in the page": [
        pvalidate(PAGE), write(PAGE, FIRST), pvalidate(PAGE, validate=0),
        read(PAGE).faults(NOT_VALIDATED, cr2=PAGE), pvalidate(PAGE), read(PAGE).gives(value=FIRST),
    ],
    "2 MiB of shared pages": [
        pvalidate(BIG, 1).gives(eax=FAIL_SIZEMISMATCH, zf=0, cf=0),
    ],
    "2 MiB that were made private 4 KiB at a time": [
        *psc(BIG | PRIVATE), *psc(BIG + 0x1000 | PRIVATE),
        pvalidate(BIG, 1).gives(eax=FAIL_SIZEMISMATCH, zf=0, cf=0),
    ],
    "a size that there is not": [
        pvalidate(PAGE, 2).gives(eax=FAIL_INPUT, zf=0, cf=0),
        pvalidate(PAGE, 3).gives(eax=FAIL_INPUT, zf=0, cf=0),
    ],
    "2 MiB at an address between": [
        *psc(BIG | PRIVATE | LARGE),
        pvalidate(BIG + 0x1000, 1).gives(eax=FAIL_INPUT, zf=0, cf=0),
    ],
    "a large page, and what splits it": [
        *psc(BIG | PRIVATE | LARGE),
        pvalidate(BIG, 1).gives(eax=0, zf=1, cf=0),
        pvalidate(BIG, 1).gives(eax=0, zf=1, cf=1),
        write(BIG + 0x1FF000, FIRST),
        pvalidate(BIG + 0x5000).gives(eax=0, zf=1, cf=1),
        pvalidate(BIG, 1).gives(eax=FAIL_SIZEMISMATCH, zf=0, cf=0),
        pvalidate(BIG + 0x1FF000, validate=0).gives(eax=0, zf=1, cf=0),
        read(BIG + 0x1FF000).faults(NOT_VALIDATED, cr2=BIG + 0x1FF000),
    ],
    "a large page with one that is shared": [
        *psc(BIG | PRIVATE | LARGE), *psc(BIG + 0x7000 | SHARED_PAGE),
        pvalidate(BIG, 1).gives(eax=FAIL_SIZEMISMATCH, zf=0, cf=0),
    ],
}  # fmt: skip

RMPADJUST: dict[str, Steps] = {
    "permissions for VMPL 1": [pvalidate(PAGE), rmpadjust(PAGE, 1 | READ)],
    "target VMPL 0": [pvalidate(PAGE), failed(rmpadjust(PAGE, READ), FAIL_PERMISSION)],
    "a page that is not validated": [
        rmpadjust(PAGE, 1 | READ).faults(NOT_VALIDATED),
        *psc(PAGE + 0x1000 | PRIVATE),
        rmpadjust(PAGE + 0x1000, 1 | READ).faults(NOT_VALIDATED),
    ],
    "2 MiB of small pages": [
        pvalidate(BIG), failed(rmpadjust(BIG, 1 | READ, 1), FAIL_SIZEMISMATCH),
    ],
    "2 MiB at an address between": [
        pvalidate(PAGE), failed(rmpadjust(PAGE + 0x1000, 1 | READ, 1), FAIL_INPUT),
    ],
    "a large page": [
        *psc(BIG | PRIVATE | LARGE), pvalidate(BIG, 1), rmpadjust(BIG, 1 | READ, 1),
        rmpquery(BIG + 0x1FF000, 1).gives(eax=0, zf=1, rdx=1 | READ, rcx=1),
    ],
}  # fmt: skip

RMPQUERY: dict[str, Steps] = {
    "what RMPADJUST has set": [
        pvalidate(PAGE),
        rmpadjust(PAGE, 1 | READ | USER_EXEC),
        rmpquery(PAGE, 1).gives(eax=0, zf=1, rdx=1 | READ | USER_EXEC, rcx=0),
        rmpadjust(PAGE, 2 | READ | WRITE | USER_EXEC | KERNEL_EXEC | SAVE_AREA),
        rmpquery(PAGE, 2).gives(eax=0, zf=1, rdx=0x10F02, rcx=0),
        rmpquery(PAGE, 1).gives(eax=0, zf=1, rdx=1 | READ | USER_EXEC | SAVE_AREA, rcx=0),
        rmpquery(PAGE, 3).gives(eax=0, zf=1, rdx=3 | SAVE_AREA, rcx=0),
        rmpadjust(PAGE, 3),
        rmpquery(PAGE, 2).gives(eax=0, zf=1, rdx=0xF02, rcx=0),
    ],
    "permissions do not outlive the page": [
        pvalidate(PAGE), rmpadjust(PAGE, 1 | READ), pvalidate(PAGE, validate=0), pvalidate(PAGE),
        rmpquery(PAGE, 1).gives(eax=0, zf=1, rdx=1, rcx=0),
    ],
    "VMPL 0": [pvalidate(PAGE), failed(rmpquery(PAGE, 0), FAIL_PERMISSION)],
    "a page that is not validated": [
        rmpquery(PAGE, 1).faults(NOT_VALIDATED),
        *psc(PAGE + 0x1000 | PRIVATE),
        rmpquery(PAGE + 0x1000, 1).faults(NOT_VALIDATED),
    ],
    "a large page stays one": [
        *psc(BIG | PRIVATE | LARGE), pvalidate(BIG, 1),
        rmpquery(BIG + 0x3000, 1).gives(eax=0, zf=1, rdx=1, rcx=1),
        pvalidate(BIG, 1).gives(eax=0, zf=1, cf=1),
    ],
}  # fmt: skip

# After a #VC for an access to a shared page the page is private: KVM converts it.
ACCESSES: dict[str, Steps] = {
    "a page that is not validated": [
        read(PAGE).faults(NOT_VALIDATED, cr2=PAGE),
        write(PAGE + 0x1238, 1).faults(NOT_VALIDATED, cr2=PAGE + 0x1238),
        call(PAGE + 0x2001).faults(NOT_VALIDATED, cr2=PAGE + 0x2001),
        *psc(PAGE + 0x3000 | PRIVATE),
        read(PAGE + 0x3018).faults(NOT_VALIDATED, cr2=PAGE + 0x3018),
    ],
    "a private page without the C-bit": [
        pvalidate(PAGE), write(PAGE, FIRST), write(PAGE + 0xFF8, FIRST),
        read(SHARED + PAGE).other_than(FIRST), read(SHARED + PAGE + 0xFF8).other_than(FIRST),
        write(SHARED + PAGE, SECOND), read(SHARED + PAGE).gives(value=SECOND),
        read(PAGE).faults(NOT_VALIDATED, cr2=PAGE),
    ],
    "private, shared, private, shared": [
        pvalidate(PAGE), write(PAGE, FIRST),
        *psc(PAGE | SHARED_PAGE), read(SHARED + PAGE).other_than(FIRST),
        write(SHARED + PAGE, SECOND), read(SHARED + PAGE).gives(value=SECOND),
        *psc(PAGE | PRIVATE), read(PAGE).faults(NOT_VALIDATED, cr2=PAGE),
        pvalidate(PAGE), read(PAGE).other_than(FIRST), read(PAGE).other_than(SECOND),
        *psc(PAGE | SHARED_PAGE),
        read(SHARED + PAGE).other_than(FIRST), read(SHARED + PAGE).other_than(SECOND),
    ],
    "shared, then private for the first time": [
        write(SHARED + PAGE, FIRST), write(SHARED + PAGE + 0x800, FIRST),
        *psc(PAGE | PRIVATE), pvalidate(PAGE),
        read(PAGE).other_than(FIRST), read(PAGE + 0x800).other_than(FIRST),
    ],
    "made private twice": [
        pvalidate(PAGE), write(PAGE, FIRST), *psc(PAGE | PRIVATE), read(PAGE).gives(value=FIRST),
        pvalidate(PAGE).gives(eax=0, zf=1, cf=1),
    ],
    "made shared twice": [
        pvalidate(PAGE), *psc(PAGE | SHARED_PAGE), write(SHARED + PAGE, FIRST),
        *psc(PAGE | SHARED_PAGE), read(SHARED + PAGE).gives(value=FIRST),
    ],
    "2 MiB, private, shared, private": [
        *psc(BIG | PRIVATE | LARGE), pvalidate(BIG, 1), write(BIG, FIRST),
        write(BIG + 0x1FFFF8, FIRST), *psc(BIG | SHARED_PAGE | LARGE),
        read(SHARED + BIG).other_than(FIRST), read(SHARED + BIG + 0x1FFFF8).other_than(FIRST),
        *psc(BIG | PRIVATE | LARGE), read(BIG + 0x1000).faults(NOT_VALIDATED, cr2=BIG + 0x1000),
        pvalidate(BIG, 1).gives(eax=0, zf=1, cf=0), read(BIG + 0x1FFFF8).other_than(FIRST),
    ],
    "page tables are private whatever the C-bit says": [
        # The ninth GiB: a table that is not validated, then one that is, with 2 MiB at 0.
        write(DIRECTORIES + 8 * 8, PAGE | C_BIT | PRESENT),
        read(NINTH + 0x1230).faults(NOT_VALIDATED, cr2=NINTH + 0x1230),
        pvalidate(PAGE), write(PAGE, 0),
        read(NINTH + FLAG).gives(vector=PF, error=0, cr2=NINTH + FLAG),
        write(PAGE, C_BIT | PRESENT | LARGE_ENTRY), write(FLAG, FIRST),
        read(NINTH + FLAG).gives(value=FIRST),
        write(DIRECTORIES + 8 * 8, PAGE | PRESENT), *psc(BIG | SHARED_PAGE),
        read(NINTH + FLAG).gives(value=FIRST),
        read(PAGE).other_than(0),
    ],
    "what is no memory": [
        read(SHARED + APIC + 0x20).faults(NPF), write(SHARED + APIC + 0x20, 0).faults(NPF),
    ],
    "code is private whatever the C-bit says": [
        pvalidate(PAGE), write(PAGE, returns(1)),
        call(PAGE).gives(value=1), call(SHARED + PAGE).gives(value=1),
        read(PAGE).gives(value=returns(1)),
        write(SHARED + PAGE + 0x1000, returns(2)),
        read(SHARED + PAGE + 0x1000).gives(value=returns(2)),
        call(SHARED + PAGE + 0x1000).faults(NOT_VALIDATED, cr2=SHARED + PAGE + 0x1000),
        # What is run once it was private there, and shared bytes are now: not them either.
        write(SHARED + PAGE, returns(2)),
        call(SHARED + PAGE).faults(NOT_VALIDATED, cr2=SHARED + PAGE),
    ],
}  # fmt: skip

# Instructions that the hypervisor intercepts raise #VC with SVM's exit code.
INTERCEPTED = {
    "CPUID": ("0fa2", 0x72),
    "IN": ("ec", 0x7B),
    "OUT": ("ee", 0x7B),
    "RDMSR of the APIC's base": ("b91b000000 0f32", 0x7C),
    "WRMSR of the APIC's base": ("b91b000000 0f30", 0x7C),
    "RDPMC": ("0f33", 0x6F),
    "INVD": ("0f08", 0x76),
    "WBINVD": ("0f09", 0x89),
    "VMMCALL": ("0f01d9", 0x81),
    "MOV from DR7": ("0f21f8", 0x27),
    "MOV to DR7": ("0f23f8", 0x37),
}
# And what is not there at all: without its prefix, and VMRUN.
UNDEFINED = {"PVALIDATE": "0f01ff", "RMPADJUST": "0f01fe", "RMPQUERY": "0f01fd", "VMRUN": "0f01d8"}
# What KVM lets a guest do.
ALLOWED = {"RDTSC": "0f31c3", "RDMSR": "b9800000c0 0f32c3"}

REQUESTS: dict[str, Steps] = {
    "by MSR": [
        msr(0x002).gives(value=0x001 | 51 << 24 | 1 << 32 | 2 << 48),
        msr(0x010).gives(value=0xFFFFFFFFFFFFF011),
        msr(0x080).gives(value=0x081 | 3 << 12),
        msr(GHCB | 0x012).gives(value=GHCB | 0x013),
        msr(PAGE | 1 << 52 | 0x014).gives(value=0x015),
        read(PAGE).faults(NOT_VALIDATED, cr2=PAGE),
        pvalidate(PAGE),
        msr(PAGE | 2 << 52 | 0x014).gives(value=0x015),
        write(SHARED + PAGE, FIRST),
        read(SHARED + PAGE).gives(value=FIRST),
    ],
    "a list of page state changes": [
        change(BUFFER, 1 << 16), change(BUFFER + 8, PAGE | PRIVATE),
        change(BUFFER + 16, BIG | PRIVATE | LARGE),
        request(PSC_REQUEST).gives(info1=0, info2=0),
        # It is said how far it went.
        read(SHARED + GHCB + BUFFER).gives(value=2 | 1 << 16),
        read(SHARED + GHCB + BUFFER + 8).gives(value=PAGE | PRIVATE | 1),
        read(SHARED + GHCB + BUFFER + 16).gives(value=BIG | PRIVATE | LARGE | 512),
    ],
    "a list with a wrong entry": [
        change(BUFFER, 1 << 16), change(BUFFER + 8, PAGE | PRIVATE),
        change(BUFFER + 16, BIG + 0x1000 | PRIVATE | LARGE),
        request(PSC_REQUEST).gives(info1=0, info2=1 << 32 | 2),
        read(SHARED + GHCB + BUFFER).gives(value=1 | 1 << 16),
    ],
    "a list that is gone on with": [
        change(BUFFER, 1 | 1 << 16), change(BUFFER + 8, PAGE | PRIVATE),
        change(BUFFER + 16, PAGE + 0x1000 | PRIVATE),
        request(PSC_REQUEST).gives(info1=0, info2=0),
        write(SHARED + PAGE, FIRST), read(SHARED + PAGE).gives(value=FIRST),
        pvalidate(PAGE + 0x1000), write(PAGE + 0x1000, FIRST),
        read(PAGE + 0x1000).gives(value=FIRST),
    ],
    "a list that is too long": [
        change(BUFFER, 253 << 16), request(PSC_REQUEST).gives(info1=0, info2=1 << 32 | 1),
    ],
    "no scratch area": [
        change(BUFFER, 0), change(BUFFER + 8, PAGE | PRIVATE), prepare(PSC_REQUEST),
        change(VALID + 8, invalid(SCRATCH)), refused(vmgexit(), MISSING_INPUT),
        # Elsewhere in the GHCB, partly so, and where nothing is.
        prepare(PSC_REQUEST), change(SCRATCH, GHCB + 0x100), refused(vmgexit(), BAD_SCRATCH),
        prepare(PSC_REQUEST), change(SCRATCH, GHCB + 0xFEC), refused(vmgexit(), BAD_SCRATCH),
        prepare(PSC_REQUEST), change(SCRATCH, EVERY - 7), refused(vmgexit(), BAD_SCRATCH),
    ],
    "no exit code": [
        prepare(0x8000FFFD), change(VALID + 8, invalid(0x390)), refused(vmgexit(), MISSING_INPUT),
        request(0x8000FFFD).gives(info1=0, info2=3),
    ],
    "an exit code that there is not": [
        refused(request(0x8000ABCD), BAD_EVENT), refused(request(0x3FF), BAD_EVENT),
    ],
    "a usage that there is not": [
        prepare(0x8000FFFD), change(USAGE, 1, 4), refused(vmgexit(), BAD_USAGE),
    ],
    "a GHCB that is not registered": [
        refused(vmgexit(GHCB + 0x5000), NOT_REGISTERED),
        # From here on it is, and the other one is not.
        msr(GHCB + 0x5000 | 0x012).gives(value=GHCB + 0x5000 | 0x013),
        request(0x8000FFFD).gives(info1=0, info2=3),
        refused(vmgexit(GHCB), NOT_REGISTERED),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", PVALIDATE)
def test_pvalidate(name: str, follow: Follow) -> None:
    follow(PVALIDATE[name]).check()


@pytest.mark.parametrize("name", RMPADJUST)
def test_rmpadjust(name: str, follow: Follow) -> None:
    follow(RMPADJUST[name]).check()


@pytest.mark.parametrize("name", RMPQUERY)
def test_rmpquery(name: str, follow: Follow) -> None:
    follow(RMPQUERY[name]).check()


@pytest.mark.parametrize("name", ACCESSES)
def test_accesses(name: str, follow: Follow) -> None:
    follow(ACCESSES[name]).check()


@pytest.mark.parametrize("name", INTERCEPTED)
def test_intercepts(name: str, follow: Follow) -> None:
    code, error = INTERCEPTED[name]
    *before, does = runs(code)
    follow([*before, does.faults(error)]).check()


@pytest.mark.parametrize("name", UNDEFINED)
def test_undefined(name: str, follow: Follow) -> None:
    *before, does = runs(UNDEFINED[name])
    follow([*before, does.gives(vector=UD, error=0)]).check()


@pytest.mark.parametrize("name", ALLOWED)
def test_not_intercepted(name: str, follow: Follow) -> None:
    follow(runs(ALLOWED[name])).check()


@pytest.mark.parametrize("name", REQUESTS)
def test_requests(name: str, follow: Follow) -> None:
    follow(REQUESTS[name]).check()
