# SPDX-License-Identifier: Apache-2.0
"""vm pause and vm resume, with a QEMU in each of its states."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cpcctl import __main__ as entry
from cpcctl.host.process import ProcessId
from cpcctl.host.state import Folders
from cpcctl.vm import pause, spec
from cpcctl.vm.spec import Disk, VmSpec

STANDING = [state for state in pause.COMMANDS if state != "paused"]
OTHERS = ["guest-panicked", "shutdown", "internal-error", "postmigrate", "inmigrate",
          "prelaunch", "frozen", "finish-migrate", "save-vm", "restore-vm", "colo"]


class Guest:
    """A QEMU that speaks QMP; what it runs is in `state`."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.state = "running"
        self.status = "ok"
        self.full = False
        server.handlers.update({
            "query-cpc": lambda _: {"frozen": self.state == "frozen"},
            "query-status": lambda _: {"status": self.state},
            "query-block": lambda _: [
                {"qdev": "/machine/peripheral/blk0/virtio-backend", "io-status": self.status},
                {"qdev": "/machine/x", "io-status": "ok"},
            ],
            "stop": lambda _: self.become("paused"),
            "cont": lambda _: self.cont(),
            "system_wakeup": lambda _: self.become("running"),
        })

    def become(self, state: str) -> dict[str, Any]:
        self.state = state
        return {}

    def cont(self) -> dict[str, Any]:
        self.become("running")
        if self.full:
            self.become("io-error")
            self.server.event("STOP")
        return {}


@pytest.fixture
def guest(tmp_path: Path, qmp_server: Any, monkeypatch: pytest.MonkeyPatch) -> Guest:
    """VM web, whose process is this one."""
    for name in ("STATE", "RUN"):
        monkeypatch.setenv(f"CPCCTL_{name}_DIR", str(tmp_path / name))
    paths = Folders(tmp_path / "STATE", tmp_path / "RUN").vm("web")
    for folder in (paths.state, paths.run):
        folder.mkdir(parents=True, mode=0o700)
    vm = VmSpec("web", 64 << 20, machine="pc-q35-10.0", accel="tcg", disks=(Disk("/d"),))
    paths.definition.write_text(spec.dump(vm))
    own = ProcessId.of(os.getpid())
    assert own is not None
    paths.process.write_text(json.dumps({"pid": own.pid, "started": own.started, "argv": []}))
    paths.qmp.symlink_to(qmp_server.path)
    return Guest(qmp_server)


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, Any, str]:
    """Exit code, result and stderr."""
    code = entry.main([*argv, "--format", "json"])
    shown = capsys.readouterr()
    return code, json.loads(shown.out) if shown.out else None, shown.err


def test_there_and_back(guest: Guest, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "vm", "resume", "web")[1] == {
        "name": "web", "changed": False, "was": "running", "reason": None,
    }
    assert run(capsys, "vm", "pause", "web")[1] == {
        "name": "web", "changed": True, "was": "running", "reason": None,
    }
    assert guest.state == "paused"
    again = run(capsys, "vm", "pause", "web")[1]
    assert (again["changed"], again["reason"]) == (False, "the guest was paused")
    assert entry.main(["vm", "resume", "web"]) == 0
    assert capsys.readouterr().out == "resumed web (the guest was paused)\n"
    assert guest.state == "running"


@pytest.mark.parametrize("state", STANDING)
def test_it_goes_on_from(state: str, guest: Guest, capsys: pytest.CaptureFixture[str]) -> None:
    guest.state = state
    code, done, _ = run(capsys, "vm", "resume", "web")
    assert (code, done["changed"], done["was"], guest.state) == (0, True, state, "running")
    assert done["reason"]


@pytest.mark.parametrize("state", OTHERS)
@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_it_does_not_go_on_from(
    verb: str, state: str, guest: Guest, capsys: pytest.CaptureFixture[str]
) -> None:
    guest.state = state
    code, done, err = run(capsys, "vm", verb, "web")
    error = json.loads(err)["error"]
    assert (code, done, guest.state) == (3, None, state)
    assert error["message"] == f"VM web cannot be {verb}d"
    assert error["cause"]
    assert error["hint"]


@pytest.mark.parametrize("state", [*STANDING, "paused", "guest-panicked", "frozen"])
def test_it_cannot_hear_that_it_shall_shut_down(
    state: str, guest: Guest, capsys: pytest.CaptureFixture[str]
) -> None:
    guest.state = state
    code, _, err = run(capsys, "vm", "stop", "web")
    error = json.loads(err)["error"]
    assert (code, error["message"]) == (3, "the guest of VM web is stopped and cannot shut down")
    assert "system_powerdown" not in guest.server.commands
    assert ("--force" in error["hint"]) is (state != "frozen"), "a frozen one may be elsewhere"


def test_a_full_disk_is_named(guest: Guest, capsys: pytest.CaptureFixture[str]) -> None:
    guest.state, guest.status = "io-error", "nospace"
    _, done, _ = run(capsys, "vm", "resume", "web")
    assert done["reason"] == "the guest was stopped by its disk: /d has no space left"


def test_a_disk_that_is_still_full(guest: Guest, capsys: pytest.CaptureFixture[str]) -> None:
    guest.state, guest.status, guest.full = "io-error", "nospace", True
    code, _, err = run(capsys, "vm", "resume", "web")
    error = json.loads(err)["error"]
    assert (code, error["message"]) == (1, "VM web has stopped again")
    assert "/d has no space left" in error["cause"]
    assert error["hint"].startswith("df -h")
