# SPDX-License-Identifier: Apache-2.0
"""vCPUs that the guest makes, ends and keeps from memory: AP creation, save areas, VMPLs.

AMD64 Architecture Programmer's Manual, volume 2, 15.5.1 and 15.36; the GHCB specification,
version 2, on AP creation. INIT and SIPI are as with KVM: no register changes.
"""

from __future__ import annotations

import pytest

from tests.snp.guest_image import MEMORY
from tests.snp.steps import (
    AP_CREATION,
    BAD_INPUT,
    BUFFER,
    FAIL_INUSE,
    FAIL_PERMISSION,
    FIRST,
    FLAG,
    GP,
    INIT,
    KERNEL_EXEC,
    NPF,
    PSC_REQUEST,
    READ,
    SAVE_AREA,
    SECOND,
    SHARED,
    SHARED_PAGE,
    SIPI,
    SPINS,
    USER_EXEC,
    VMSA,
    WRITE,
    Follow,
    Steps,
    call,
    change,
    count,
    create,
    failed,
    grant,
    moves,
    msr,
    pause,
    prepare,
    pvalidate,
    read,
    refused,
    request,
    rests,
    returns,
    rmpadjust,
    rmpquery,
    save_area,
    signal,
    still,
    until,
    vmgexit,
    write,
)

PAGE = MEMORY["PLAY"]
OTHER = MEMORY["CANARY"]  # validated, and nothing is there
XCR0 = 0x3E8
AP_RESET_HOLD, AP_RESET_HOLD_BY_PAGE = 0x006, 0x80000004
BEGIN = [save_area(VMSA), rmpadjust(VMSA, 1 | SAVE_AREA)]
VCPUS: dict[str, Steps] = {
    "a save area in use": [
        *BEGIN, create(VMSA), moves(SPINS),
        failed(rmpadjust(VMSA, 1), FAIL_INUSE),
        moves(SPINS), pvalidate(VMSA, validate=0).gives(eax=FAIL_INUSE, zf=0, cf=0),
        moves(SPINS), refused(create(VMSA), BAD_INPUT),
        create(VMSA, kind=2), rests(SPINS), rmpadjust(VMSA, 1),
        # It was that until now; as a page like others it starts nothing.
        refused(create(VMSA), BAD_INPUT),
    ],
    "INIT stops it, SIPI lets it go on": [
        *BEGIN, create(VMSA), moves(SPINS),
        *signal(INIT), rests(SPINS), *signal(SIPI), moves(SPINS),
    ],
    "destroyed, it does not come back by INIT and SIPI": [
        *BEGIN, create(VMSA), moves(SPINS), create(VMSA, kind=2), still(SPINS),
        *signal(INIT), *signal(SIPI), pause(), still(SPINS),
        *signal(SIPI), pause(), still(SPINS),
        create(VMSA), moves(SPINS),
    ],
    "destroyed, no SIPI alone brings it back": [
        *BEGIN, create(VMSA), moves(SPINS), create(VMSA, kind=2), still(SPINS),
        *signal(SIPI), pause(), still(SPINS),
    ],
    "refused by VMRUN, it does not come by INIT and SIPI": [
        save_area(VMSA), write(VMSA + XCR0, 1 | 1 << 40), rmpadjust(VMSA, 1 | SAVE_AREA),
        create(VMSA).gives(), pause(), *signal(INIT), *signal(SIPI), pause(),
        read(SPINS).gives(value=0),
    ],
    "a SIPI means nothing while it runs": [
        *BEGIN, create(VMSA), moves(SPINS), *signal(SIPI), pause(), moves(SPINS),
    ],
    "created again, with another save area": [
        *BEGIN, create(VMSA), moves(SPINS),
        save_area(OTHER), rmpadjust(OTHER, 1 | SAVE_AREA), create(OTHER), pause(), moves(SPINS),
        failed(rmpadjust(OTHER, 1), FAIL_INUSE), rmpadjust(VMSA, 1), moves(SPINS),
    ],
    "a save area in use is nobody else's": [
        *BEGIN, create(VMSA), moves(SPINS), read(SHARED + VMSA).faults(NPF),
        moves(SPINS), write(SHARED + VMSA, 0).faults(NPF),
        # Whatever the hypervisor answers to that.
        moves(SPINS), change(BUFFER, 0), change(BUFFER + 8, VMSA | SHARED_PAGE),
        request(PSC_REQUEST), moves(SPINS), failed(rmpadjust(VMSA, 1), FAIL_INUSE),
    ],
    "created for the next INIT": [
        *BEGIN, create(VMSA, kind=0), rests(SPINS), read(SPINS).gives(value=0),
        *signal(INIT), *signal(SIPI), moves(SPINS),
    ],
    "creation of what cannot be": [
        save_area(VMSA),
        refused(create(VMSA), BAD_INPUT),  # a page like others
        rmpadjust(VMSA, 1 | SAVE_AREA),
        refused(create(VMSA, vmpl=1), BAD_INPUT),
        refused(create(VMSA + 8), BAD_INPUT),
        refused(create(PAGE), BAD_INPUT),
        refused(request(AP_CREATION, 1 | 0 << 32, VMSA), BAD_INPUT),  # the vCPU itself
        refused(request(AP_CREATION, 1 | 7 << 32, VMSA), BAD_INPUT),  # none
        refused(request(AP_CREATION, 3 | 1 << 32, VMSA), BAD_INPUT),
        prepare(AP_CREATION, 1 | 1 << 32, VMSA), change(0x1F8, 3),
        refused(vmgexit(), BAD_INPUT),  # features that the save area has not
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", VCPUS)
def test_a_second_vcpu(name: str, follow: Follow) -> None:
    follow(VCPUS[name], [count(SPINS)]).check()


def test_a_vcpu_that_waits(follow: Follow) -> None:
    """AP_RESET_HOLD by MSR and by GHCB page: the answer is there when the SIPI has come."""
    first = [*BEGIN, create(VMSA)]
    for word in (1, 2):
        first += [
            until(FLAG, word), pause(), read(FLAG).gives(value=word), *signal(INIT), *signal(SIPI),
        ]  # fmt: skip
    second = [
        write(FLAG, 1), msr(AP_RESET_HOLD).gives(value=AP_RESET_HOLD + 1 | 1 << 12),
        write(FLAG, 2), request(AP_RESET_HOLD_BY_PAGE).gives(info1=0, info2=1), write(FLAG, 3),
    ]  # fmt: skip
    follow([*first, until(FLAG, 3), pause()], second).check()


# What VMRUN refuses (volume 2, 15.5.1): offset in the save area, and the value.
REFUSED = {
    "EFER without SVME": (0xD0, 0x500),
    "a reserved bit of XCR0": (XCR0, 1 | 1 << 40),
    "a reserved bit of CR4": (0x148, 0x20 | 1 << 63),
    "a reserved bit of XSS": (0x140, 1 << 62),
    "a reserved bit of EFER": (0xD0, 0x1500 | 1 << 63),
    "the upper half of CR0": (0x158, 0x80000011 | 1 << 32),
    "CR0.NW without CD": (0x158, 0x80000011 | 1 << 29),
    "the upper half of DR6": (0x168, 0xFFFF0FF0 | 1 << 32),
    "the upper half of DR7": (0x160, 0x400 | 1 << 32),
    "long mode without PAE": (0x148, 0),
    "long mode without protection": (0x158, 0x80000010),
    "code that is both of 64 and 32 bits": (0x10, 0x18 | 0xE9B << 16 | 0xFFFFFFFF << 32),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_save_area_that_vmrun_refuses(name: str, follow: Follow) -> None:
    where, value = REFUSED[name]
    steps = [
        save_area(VMSA), write(VMSA + where, value), rmpadjust(VMSA, 1 | SAVE_AREA),
        # The hypervisor may say so at once, or find out.
        create(VMSA).gives(), pause(), read(SPINS).gives(value=0),
        rmpadjust(VMSA, 1), save_area(VMSA), rmpadjust(VMSA, 1 | SAVE_AREA),
        create(VMSA), moves(SPINS),
    ]  # fmt: skip
    follow(steps, [count(SPINS)]).check()


def test_a_vcpu_with_less_privilege(follow: Follow) -> None:
    """VMPL faults raise #VC in the vCPU itself here, which hardware does not: it exits."""
    readable, runs, data, of_users = (PAGE + n * 0x1000 for n in range(1, 5))
    first = [
        # What it stands on: the image, tables, stack.
        grant(0xFFFF0000, 16, 1 | READ | KERNEL_EXEC),
        grant(MEMORY["TABLES"], 0x50, 1 | READ | WRITE),
        *(pvalidate(PAGE + n * 0x1000) for n in range(5)),
        *(write(PAGE + n * 0x1000, returns(n)) for n in range(5)),
        rmpadjust(readable, 1 | READ), rmpadjust(runs, 1 | READ | KERNEL_EXEC),
        rmpadjust(data, 1 | READ | WRITE), rmpadjust(of_users, 1 | READ | USER_EXEC),
        save_area(VMSA, vmpl=1), rmpadjust(VMSA, 1 | SAVE_AREA), create(VMSA, vmpl=1),
        until(FLAG, 1), rmpadjust(PAGE, 1 | READ | WRITE), write(FLAG, 2),
        until(FLAG, 3), read(PAGE).gives(value=SECOND),
        rmpadjust(PAGE, 1 | READ), write(FLAG, 4), until(FLAG, 5),
        rmpquery(readable, 2).gives(eax=0, zf=1, rdx=2 | READ, rcx=0),
        rmpquery(VMSA, 1).gives(eax=0, zf=1, rdx=1 | SAVE_AREA, rcx=0),
    ]  # fmt: skip
    second = [
        read(PAGE).faults(NPF), write(PAGE, SECOND).faults(NPF), call(PAGE).faults(NPF),
        read(readable).gives(value=returns(1)), write(readable, SECOND).faults(NPF),
        call(readable).faults(NPF),
        call(runs).gives(value=2), write(runs, SECOND).faults(NPF),
        write(data, SECOND), read(data).gives(value=SECOND), call(data).faults(NPF),
        call(of_users).faults(NPF),
        pvalidate(data, validate=0).gives(vector=GP, error=0),
        # Nobody changes his own permissions, nor gives what he has not.
        failed(rmpadjust(readable, 1 | READ | WRITE), FAIL_PERMISSION),
        failed(rmpadjust(readable, 2 | READ | WRITE), FAIL_PERMISSION),
        rmpadjust(readable, 2 | READ),
        failed(rmpquery(readable, 1), FAIL_PERMISSION),
        rmpquery(readable, 2).gives(eax=0, zf=1, rdx=2 | READ, rcx=0),
        write(FLAG, 1), until(FLAG, 2), read(PAGE).gives(value=returns(0)),
        write(PAGE, SECOND), write(FLAG, 3),
        until(FLAG, 4), read(PAGE).gives(value=SECOND), write(PAGE, FIRST).faults(NPF),
        write(FLAG, 5),
    ]  # fmt: skip
    follow(first, second).check()
