# SPDX-License-Identifier: Apache-2.0
"""A vCPU's save area has every register while it is out of the guest, and what is put there
is what it goes on with.

DR0 to 3 are among them: without debug swap hardware keeps those elsewhere, so that a
hypervisor may change them. The emulation has no debug swap and keeps them in the save area.
"""

from __future__ import annotations

import pytest

from tests.snp.guest_image import BASE, MEMORY
from tests.snp.registers import SIZE, SWITCHES, Patterns
from tests.snp.steps import (
    FAIL_INUSE,
    NMI,
    PRIVATE,
    SAVE_AREA,
    SPINS,
    TICKS,
    VMSA,
    Entry,
    Follow,
    Steps,
    copy,
    create,
    dump,
    failed,
    pause,
    psc,
    read,
    rests,
    rmpadjust,
    save_area,
    signal,
    until,
    write,
)

PATTERNS, AFTER = MEMORY["PATTERNS"], MEMORY["AFTER"]
# A save area in the image, behind the patterns; how often registers.S has stored.
OTHER, STORED = PATTERNS + 0x800, AFTER + 0xFF8
R15, RIP, EFER, SEV_FEATURES = 0x378, 0x178, 0xD0, 0x3B0
DUMPED = 0x680
# Of two kinds: the x87 stack is elsewhere, and other registers of it are in use.
ONE = Patterns.random(1, top=5, empty={1, 2, 3, 4})
TWO = Patterns.random(2, top=2, empty={0, 7, 4})
STOPS = 5


def begin(entry: Entry) -> Steps:
    """A vCPU that loads ONE."""
    return [
        save_area(VMSA, entry),
        *(write(VMSA + offset, value) for offset, value in SWITCHES.values()),
        rmpadjust(VMSA, 1 | SAVE_AREA), create(VMSA), until(SPINS, 1),
    ]  # fmt: skip


# It has halted, so the save area is not in use: one that is says FAIL_INUSE.
HALTED = [until(VMSA + R15, ONE.values["r15"]), rmpadjust(VMSA, 1 | SAVE_AREA)]
WAKE = signal(NMI)


def of_segments(area: bytes) -> list[tuple[int, int, int]]:
    """Selector, attributes, limit of ES, CS, SS, DS, FS and GS."""
    fields = (area[n * 16 : n * 16 + 8] for n in range(6))
    return [(int.from_bytes(f[:2], "little"), int.from_bytes(f[2:4], "little"),
             int.from_bytes(f[4:], "little")) for f in fields]  # fmt: skip


@pytest.mark.parametrize("entry", [Entry.SPIN, Entry.HALT], ids=lambda entry: entry.name)
def test_every_register_is_in_the_save_area(entry: Entry, follow: Follow) -> None:
    if entry is Entry.SPIN:
        # In use while it spins; then every vCPU leaves the guest for a moment.
        steps = [*begin(entry), failed(rmpadjust(VMSA, 1), FAIL_INUSE),
                 *psc(MEMORY["PLAY"] | PRIVATE)]  # fmt: skip
    else:
        steps = [*begin(entry), *HALTED]
    run = follow([*steps, dump(VMSA, DUMPED)], patterns=ONE.to_load())
    run.check()
    (area,) = run.memory()
    wrong = ONE.differs_in_save_area(area)
    assert not wrong, "\n".join(wrong)
    data = (0x10, 0xC93, 0xFFFFFFFF)
    assert of_segments(area) == [data, (0x18, 0xA9B, 0xFFFFFFFF), data, data, data, data]
    assert int.from_bytes(area[RIP : RIP + 8], "little") - BASE < 0x10000
    assert int.from_bytes(area[0x418:0x420], "little") - BASE < 0x10000  # of FLD


def test_every_register_comes_from_the_save_area(follow: Follow) -> None:
    steps = [
        *begin(Entry.HALT), *HALTED,
        write(VMSA + 0x48, TWO.values["fs.base"]), write(VMSA + 0x58, TWO.values["gs.base"]),
        copy(VMSA + EFER, OTHER + EFER, RIP - EFER),
        copy(VMSA + RIP + 8, OTHER + RIP + 8, SIZE - RIP - 8),
        *WAKE, until(STORED, 1), dump(AFTER, 0x600),
    ]  # fmt: skip
    run = follow(steps, patterns=ONE.to_load() + TWO.save_area())
    run.check()
    (stored,) = run.memory()
    wrong = TWO.differs_in_stored(stored)
    assert not wrong, "\n".join(wrong)


def test_one_register_is_changed(follow: Follow) -> None:
    steps = [
        *begin(Entry.HALT), *HALTED, write(VMSA + 0x318, TWO.values["rbx"]),
        *WAKE, until(STORED, 1), dump(AFTER, 0x600),
    ]  # fmt: skip
    run = follow(steps, patterns=ONE.to_load())
    run.check()
    (stored,) = run.memory()
    changed = Patterns({**ONE.values, "rbx": TWO.values["rbx"]}, ONE.empty)
    wrong = changed.differs_in_stored(stored)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [(EFER, SWITCHES["efer"][1], SWITCHES["efer"][1] & ~0x1000), (SEV_FEATURES, 1, 0)],
    ids=["SVME", "SEV_FEATURES"],
)
def test_what_it_was_created_with_has_to_stay(
    field: int, good: int, bad: int, follow: Follow
) -> None:
    """It is judged again each time: from a copy, as other vCPUs can write there."""
    steps = [
        *begin(Entry.HALT), *HALTED, write(VMSA + field, bad),
        *WAKE, pause(), rests(STORED), read(STORED).gives(value=0),
        # Again what it was: the hypervisor still has to be told.
        write(VMSA + field, good), *WAKE, pause(), read(STORED).gives(value=0),
        create(VMSA), until(STORED, 1), dump(AFTER, 0x600),
    ]  # fmt: skip
    run = follow(steps, patterns=ONE.to_load())
    run.check()
    wrong = ONE.differs_in_stored(run.memory()[0])
    assert not wrong, "\n".join(wrong)


def test_registers_outlast_that_the_machine_is_stopped(follow: Follow) -> None:
    """Each time in another round, after another of its steps."""
    rounds = 8
    first = [*begin(Entry.HALT), *HALTED]
    steps = [*first]
    for n in range(1, rounds + 1):
        # It counts as the last thing before it halts again. The rest is for us to be in time.
        steps += [
            write(SPINS, 0), *WAKE, until(STORED, n), dump(AFTER, 0x600), until(SPINS, 1),
            pause(4 * TICKS),
        ]  # fmt: skip
    in_each = (len(steps) - len(first)) // rounds
    run = follow(steps, patterns=ONE.to_load())
    qmp, in_time = run.guest.qmp(), 0
    for n in range(STOPS):
        run.wait(len(first) + n * in_each + n * in_each // STOPS)
        qmp.execute("stop")
        assert not qmp.execute("query-status")["running"]
        in_time += len(run.results()) < len(steps)
        qmp.execute("cont")
    assert in_time, "the guest was through before the first stop"
    run.check()
    dumps = run.memory()
    assert len(dumps) == rounds
    wrong = [line for stored in dumps for line in ONE.differs_in_stored(stored)]
    assert not wrong, "\n".join(wrong)
