# SPDX-License-Identifier: Apache-2.0
"""A small guest moves between two hosts, and what an operator may ask for."""

from __future__ import annotations

import json
import os
import signal

from tests.twohosts.pair import Pair, finish, until


def test_there_and_back(pair: Pair) -> None:
    name = pair.vm()
    receive, ticket = pair.receive()
    done = finish(pair.migrate(name, ticket, "--format", "json"), 0)
    finish(receive, 0)
    result = json.loads(done.stdout)
    assert result["peer_attested"] is False
    assert result["protection"].startswith("plain: ")
    assert result["bytes_sent"] > 1 << 20
    assert 0 < result["downtime_seconds"] < result["total_seconds"]
    assert result["rounds"][0]["pages"] > 0
    assert [p["name"] for p in result["phases"]] == [
        "preflight", "handshake", "copy", "freeze", "commit", "run",
    ]
    assert all(p["seconds"] >= 0 for p in result["phases"]), result["phases"]
    assert sum(p["seconds"] for p in result["phases"]) >= result["downtime_seconds"]
    assert result["paused_seconds"] == 0
    pair.check_one_side(name, "b")
    pair.a, pair.b = pair.b, pair.a
    pair.check_next_try(name)


def test_two_streams(pair: Pair) -> None:
    """By default as many as the cores allow that both sides share here; else as asked for."""
    name = pair.vm(vcpus=2, hvcpus=2, memory="256M")
    receive, ticket = pair.receive()
    result = json.loads(finish(pair.migrate(name, ticket, "--format", "json"), 0).stdout)
    assert "both sides share" in result["streams_why"]
    assert result["streams"] == 1 or (os.cpu_count() or 1) >= 6
    assert "sealed here" in result["suite_why"] and "opened there" in result["suite_why"]
    speeds = json.loads(pair.b.run("hvcpu", "ping", name, "--format", "json").stdout)[0]["speeds"]
    assert result["suite"] in speeds
    finish(receive, 0)
    pair.check_one_side(name, "b")
    pair.a, pair.b = pair.b, pair.a
    receive, ticket = pair.receive()
    done = finish(pair.migrate(name, ticket, "--parallel", "2", "--format", "json"), 0)
    result = json.loads(done.stdout)
    assert result["streams_why"] == "--parallel 2"
    assert result["streams"] == len(result["stream_bytes"]) == 2
    # Both carry pages: the pages are shared out by number, and the guest's are all over.
    assert min(result["stream_bytes"]) > result["bytes_sent"] / 8
    finish(receive, 0)
    pair.check_one_side(name, "b")


def test_dry_run_changes_nothing(pair: Pair) -> None:
    name = pair.vm()
    receive, ticket = pair.receive()
    done = finish(pair.migrate(name, ticket, "--dry-run", "--format", "json"), 0)
    found = json.loads(done.stdout)
    assert {c["name"] for c in found} >= {"cpu", "memory", "name", "disks"}
    assert len({c["host"] for c in found}) == 2
    assert all((c["ok"], c["reason"], c["fix"]) == (True, None, None) for c in found)
    pair.a.run("vm", "pause", name)
    done = finish(pair.migrate(name, ticket, "--dry-run", "--format", "json"), 3)
    failed = [c for c in json.loads(done.stdout) if not c["ok"]]
    assert [(c["name"], c["reason"]) for c in failed] == [("running", "the guest was paused")]
    assert {c["host"] for c in json.loads(done.stdout)} == {c["host"] for c in found}
    pair.a.run("vm", "resume", name)
    pair.check_one_side(name, "a")
    finish(pair.migrate(name, ticket), 0)  # the ticket is still good
    finish(receive, 0)


def test_detach_and_wait(pair: Pair) -> None:
    name = pair.vm()
    receive, ticket = pair.receive()
    job = finish(pair.migrate(name, ticket, "--detach"), 0).stdout.strip()
    done = pair.a.run("job", "wait", job)
    assert "downtime" in done.stdout
    finish(receive, 0)
    ended = pair.a.jobs("migrate")[-1]
    assert ended["state"] == "done"
    assert "ticket" not in ended["data"]  # it holds the secret


def test_interrupt_cancels(pair: Pair) -> None:
    name = pair.vm()
    receive, ticket = pair.receive()
    process = pair.migrate(name, ticket, "--bandwidth", "5")
    _until_phase(pair, "copy")
    process.send_signal(signal.SIGINT)
    done = finish(process, 130)
    assert "runs on host-a" in done.stderr
    finish(receive, 1)
    pair.check_one_side(name, "a")
    pair.check_next_try(name)


def test_job_cancel(pair: Pair) -> None:
    name = pair.vm()
    receive, ticket = pair.receive()
    process = pair.migrate(name, ticket, "--bandwidth", "5")
    job = _until_phase(pair, "copy")
    pair.a.run("job", "cancel", job)
    finish(process, 130)
    finish(receive, 1)
    pair.check_one_side(name, "a")


def test_timeout_cancels(pair: Pair) -> None:
    name = pair.vm()
    receive, ticket = pair.receive()
    done = finish(pair.migrate(name, ticket, "--bandwidth", "5", "--timeout", "2"), 6)
    assert "timed out" in done.stderr
    finish(receive, 1)
    pair.check_one_side(name, "a")
    pair.check_next_try(name)


def test_timeout_pauses(pair: Pair) -> None:
    name = pair.vm()
    receive, ticket = pair.receive()
    options = ("--bandwidth", "20", "--timeout", "1", "--on-timeout", "pause")
    done = finish(pair.migrate(name, ticket, *options), 0)
    finish(receive, 0)
    pair.check_one_side(name, "b")
    assert "of the downtime, by --on-timeout pause" in done.stdout
    assert "not known" not in done.stdout
    # The guest stood still from the stop on: nearly all that was copied was copied then.
    result = pair.a.jobs("migrate")[-1]["result"]
    copied = result["rounds"][0]["seconds"]
    assert copied - 2 < result["paused_seconds"] < result["downtime_seconds"]
    assert result["downtime_seconds"] < result["total_seconds"]


def test_bandwidth_is_kept(pair: Pair) -> None:
    name = pair.vm()
    receive, ticket = pair.receive()
    done = finish(pair.migrate(name, ticket, "--bandwidth", "10", "--format", "json"), 0)
    first = json.loads(done.stdout)["rounds"][0]
    assert first["bytes"] > 10 << 20, "too little to measure a rate with"
    assert 0.5 < first["bytes"] / first["seconds"] / (10 << 20) < 1.15
    finish(receive, 0)


def _until_phase(pair: Pair, phase: str) -> str:
    def found() -> str:
        jobs = pair.a.jobs("migrate")
        return str(jobs[-1]["id"]) if jobs and jobs[-1]["phase"] == phase else ""

    return str(until(found, f"phase {phase}"))
