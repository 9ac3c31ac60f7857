# SPDX-License-Identifier: Apache-2.0
"""A file of a QEMU that lives is missing: what that means is not known, and nothing is removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.patience import patient
from tests.recovery.hosts import VM, Host, Scene, finish, told
from tests.recovery.kills import qemu, resume
from tests.recovery.test_kill_matrix import check_journal
from tests.recovery.test_not_known import controllers_killed, settled_on_b

FILES = ("ring", "process.json")


def take_away(host: Host, name: str) -> Path:
    """Move a file of the run folder aside; where it was."""
    path = host.folder / "r/vms" / VM / name
    path.rename(host.folder / name)
    return path


def listing(host: Host) -> set[Path]:
    """Every file that a host has of its VM."""
    return {path for top in "rs" for path in (host.folder / top / "vms" / VM).rglob("*")}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("side", ["a", "b"])
@pytest.mark.parametrize("at", ["before SEND", "after COMMIT", "after RUN"])
def test_job_resume(scene: Scene, at: str, side: str, name: str) -> None:
    """On the host where it is missing; then the file is there again."""
    host = scene.a if side == "a" else scene.b
    controllers_killed(scene, at, "b" if at == "after RUN" else "a")
    process = qemu(host)
    path = take_away(host, name)
    files = listing(host)
    tried = resume(host, "migrate" if side == "a" else "receive")
    code = finish(tried)
    assert code == 5, told(tried)
    said = tried.err.read_text()
    assert "lost" not in said and "cpcctl job resume" in said, said
    assert process.alive and listing(host) == files
    (host.folder / name).rename(path)
    if at != "before SEND":
        settled_on_b(scene)
        return
    if side == "b":
        # Nothing was given away: one that is resumed ends with its grace or by the source's word.
        tried = resume(scene.b, "receive")
    ours = resume(scene.a, "migrate")
    assert finish(ours) == 1, told(ours)
    assert scene.a.state() == "running"
    if side == "b":
        assert finish(tried) == 1, told(tried)
        scene.b.check_nothing_left()
    check_journal(scene.stage.lines())


@pytest.mark.parametrize(
    "verb", [("start",), ("start", "--force"), ("stop",), ("stop", "--force")], ids=" ".join
)
def test_vm_verbs_without_the_process_file(scene: Scene, verb: tuple[str, ...]) -> None:
    scene.vm()
    process = qemu(scene.a)
    path = take_away(scene.a, "process.json")
    files = {entry: entry.stat().st_mtime_ns for entry in listing(scene.a)}
    what = str(scene.folder / f"{VM}.yaml") if verb[0] == "start" else VM
    refused = scene.a.run("vm", *verb, what, expect=5)
    assert f"QEMU of VM {VM} lives" in refused.err.read_text()
    assert process.alive and scene.stage.runs_somewhere()
    assert {entry: entry.stat().st_mtime_ns for entry in listing(scene.a)} == files
    shown = scene.a.run("vm", "status", VM, "--format", "json", expect=5)
    assert '"state": "unreachable"' in shown.out.read_text()
    (scene.a.folder / "process.json").rename(path)
    assert scene.a.state() == "running"
    scene.a.run("vm", "stop", "--force", VM)
    assert process.wait_gone(patient(10.0)) and not scene.stage.runs_somewhere()
