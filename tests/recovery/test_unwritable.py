# SPDX-License-Identifier: Apache-2.0
"""A job's file cannot be written any more (a file system that became read-only, a dead disk): the
exit code still says where the VM is."""

from __future__ import annotations

import pytest

from tests.recovery.hosts import VM, Host, Scene, finish, told
from tests.recovery.test_kill_matrix import check_journal


def unwritable(host: Host, kind: str) -> None:
    """For the controller of the newest job of a kind."""
    job = host.job(kind)
    (host.folder / "s/jobs" / f".{job['id']}.json.{job['pid']}.new").mkdir()


@pytest.mark.parametrize(
    ("side", "at", "where", "codes"),
    [
        ("b", "before SEND", "a", (0, 0)),
        ("b", "before RUN", "b", (0, 0)),
        ("a", "before SEND", "a", (1, 1)),
        ("a", "before RUN", "b", (0, 0)),
        ("a", "before FINISH", "a", (0, 0)),
    ],
)
def test_the_code_says_where_the_vm_is(
    scene: Scene, side: str, at: str, where: str, codes: tuple[int, int]
) -> None:
    migrate, receive = scene.moving(scene.a if where == "a" else scene.b, at)
    unwritable(*((scene.a, "migrate") if side == "a" else (scene.b, "receive")))
    scene.stage.release(f"host-{where}")
    assert (finish(migrate), finish(receive)) == codes, told(migrate) + told(receive)
    states = ("absent", "running") if codes[0] == 0 else ("running", "absent")
    assert (scene.a.state(), scene.b.state()) == states
    check_journal(scene.stage.lines())
    said = (migrate if side == "a" else receive).err.read_text()
    assert "Traceback" not in said and "cannot write" in said, said
    assert codes[0] == 0 or f"VM {VM} runs on host-a" in said
