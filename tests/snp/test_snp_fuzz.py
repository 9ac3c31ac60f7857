# SPDX-License-Identifier: Apache-2.0
"""A hostile guest cannot harm QEMU: random requests, PVALIDATE, RMPADJUST and save areas.

The guest is tests/snp/fuzz_guest. A run that ends is followed by another one with the next
seed; CPC_TEST_SEED repeats a run: the first one has that seed.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.patience import patient
from tests.snp import fuzz_image, guest_image
from tests.snp.boot import Guest, Parts
from tests.snp.fuzz_image import Mode

Launch = Callable[[list[str]], Guest]
SHORT, LONG = 7.5, 60.0
RUN_SECONDS = 4.0
REPORT_SECONDS = 30.0
CANARY = 16 << 20
# QEMU stops in its own way: power off, reset, triple fault, the guest's own request.
ORDERLY = 0


@dataclass
class Fuzzer:
    """Runs of the guest, each beside a block of the host's memory that is not the guest's."""

    parts: Parts
    launch: Launch
    folder: Path

    def __post_init__(self) -> None:
        self.canary = self.folder / "canary"
        self.canary.write_bytes(os.urandom(CANARY))
        self.digest = self._digest()
        self.reports = self.folder / "reports"

    def _digest(self) -> str:
        return hashlib.sha256(self.canary.read_bytes()).hexdigest()

    def begin(self, seed: int, mode: Mode, *more: str, end: int = 0) -> Guest:
        """Start a run; with more arguments of QEMU."""
        firmware = self.folder / f"{mode.name}-{seed:x}.fd"
        firmware.write_bytes(fuzz_image.image(seed, mode, end))
        self.reports.unlink(missing_ok=True)
        return self.launch(
            [
                *guest_image.arguments(self.parts.qemu, self.parts.qemu_data, firmware),
                "-serial", "null", "-debugcon", f"file:{self.reports}", "-object",
                f"memory-backend-file,id=canary,size={CANARY},share=on,mem-path={self.canary}",
                *more,
            ]
        )  # fmt: skip

    def console(self) -> str:
        """The guest's words so far."""
        return self.reports.read_text(errors="replace") if self.reports.exists() else ""

    def run(self, seed: int, mode: Mode, seconds: float, end: int = 0) -> Counter[str]:
        """One run, for so long at most; what was done. Fails when QEMU was harmed."""
        guest = self.begin(seed, mode, end=end)
        what = f"seed {seed:#x}, mode {mode.name}"
        done: Counter[str] = Counter(runs=1)
        try:
            guest.wait_ended(seconds)
        except AssertionError:
            # Alive is who answers.
            done["denied"] = guest.query()["writes-denied"]
            assert guest.qmp().execute("query-status")["status"], what
        status = guest.ended()
        guest.end()
        assert status in (None, ORDERLY), f"{what}: QEMU ended with {status}: {guest.words()}"
        assert self._digest() == self.digest, f"{what}: memory of the host's own has changed"
        # A second vCPU gone wild may write there itself.
        if mode is not Mode.WILD_VMSA:
            assert fuzz_image.BROKEN not in self.console(), f"{what}: private pages have changed"
        done["by itself"] = status is not None
        return done + Counter(fuzz_image.reported(self.console()))


@pytest.fixture
def fuzzer(parts: Parts, launch: Launch, tmp_path: Path) -> Fuzzer:
    """Runs of the guest."""
    return Fuzzer(parts, launch, tmp_path)


@pytest.mark.parametrize("seconds", [SHORT, pytest.param(LONG, marks=pytest.mark.long)])
@pytest.mark.parametrize("mode", [Mode.RACE, Mode.WILD_VMSA], ids=lambda mode: mode.name)
def test_a_hostile_guest_does_not_harm_qemu(
    fuzzer: Fuzzer, mode: Mode, seconds: float, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = int(os.environ.get("CPC_TEST_SEED") or hex(secrets.randbits(63)), 0)
    deadline = time.monotonic() + seconds
    done: Counter[str] = Counter()
    while not done or (left := deadline - time.monotonic()) > 0:
        run = RUN_SECONDS if not done else min(left, RUN_SECONDS)
        done += fuzzer.run(seed + done["runs"], mode, run)
    with capsys.disabled():
        print(f"\nfuzz {mode.name}: seeds from {seed:#x}: {dict(done)}")
    lacking = [kind for kind in (*fuzz_image.KINDS, "runs") if not done[kind]]
    assert not lacking, f"seed {seed:#x}: never done: {lacking} of {dict(done)}"
    if mode is Mode.RACE:
        assert done["denied"], "the host was never sent to a private page"


def test_the_guest_notices_a_changed_page(fuzzer: Fuzzer) -> None:
    guest = fuzzer.begin(1, Mode.SPOIL)
    deadline = time.monotonic() + patient(REPORT_SECONDS)
    while fuzz_image.BROKEN not in fuzzer.console():
        assert time.monotonic() < deadline, f"no word of it: {fuzzer.console()[-500:]}"
        guest.console(0.1)  # nothing comes there: a pause between two looks


def test_a_save_area_may_go_away_with_its_device(fuzzer: Fuzzer) -> None:
    guest = fuzzer.begin(1, Mode.WINDOW, "-device", "VGA,addr=2")
    deadline = time.monotonic() + patient(REPORT_SECONDS)
    # It has gone, and the guest has done a good deal since: the vCPU was out of the guest.
    while "SHUT" not in (said := fuzzer.console()) or fuzz_image.reported(said)["pages"] < 1000:
        assert guest.ended() is None, f"{guest.ended()}: {guest.words()}"
        assert time.monotonic() < deadline, f"no word of it: {fuzzer.console()[-500:]}"
        guest.console(0.1)  # nothing comes there: a pause between two looks


def test_a_save_area_with_a_wrong_task_register(fuzzer: Fuzzer) -> None:
    fuzzer.run(0x35334A813C7D9F18, Mode.WILD_VMSA, RUN_SECONDS, end=1)
