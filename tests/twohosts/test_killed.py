# SPDX-License-Identifier: Apache-2.0
"""What tests/recovery shows for every phase holds with real VMs: three cases of it."""

from __future__ import annotations

import os
import signal

from tests.twohosts.pair import Pair, finish, until, wait_stopped


def test_source_controller_killed_in_mid_copy(pair: Pair) -> None:
    name = pair.vm()
    receive, ticket = pair.receive()
    process = pair.migrate(name, ticket, "--bandwidth", "5")
    worker = pair.worker()
    until(lambda: pair.copying(), "bytes to move")
    os.kill(worker, signal.SIGKILL)
    assert f"runs on {pair.a.name}" in finish(process, 1).stderr
    finish(receive, None)
    pair.check_one_side(name, "a")
    pair.check_next_try(name)


def test_destination_controller_killed_after_the_commit(pair: Pair) -> None:
    name = pair.vm()
    receive, ticket = pair.receive(stop_at="before run")
    process = pair.migrate(name, ticket)
    wait_stopped(receive.pid)
    receive.kill()
    finish(receive, None)
    again = pair.b.start("job", "resume", pair.b.jobs("receive")[-1]["id"])
    finish(process, 0)
    finish(again, 0)
    pair.check_one_side(name, "b")


def test_source_qemu_killed_before_the_commit(pair: Pair) -> None:
    name = pair.vm()
    receive, ticket = pair.receive()
    process = pair.migrate(name, ticket, stop_at="before commit")
    wait_stopped(worker := pair.worker())
    os.kill(pair.a.qemu_pid(name), signal.SIGKILL)
    os.kill(worker, signal.SIGCONT)
    assert "lost" in finish(process, 7).stderr
    assert f"VM {name} is lost" in finish(receive, 7).stderr
    assert pair.b.vm_state(name) == "absent"
