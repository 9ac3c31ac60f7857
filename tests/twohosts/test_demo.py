# SPDX-License-Identifier: Apache-2.0
"""The demo and the bench, as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cpcctl.bench.scenario import SCENARIOS, Scenario
from cpcctl.demo import plain, watch
from cpcctl.demo import run as demo
from cpcctl.demo.console import Console
from cpcctl.demo.hosts import NoNamespaces, World, wait_until
from tests import accel
from tests.one_host import command_line
from tests.patience import patient

Built = Any  # conftest.Built


def cpcctl(*argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cpcctl", *argv],
        capture_output=True, text=True, check=False, timeout=patient(580),
        env={**os.environ, **env},
    )  # fmt: skip


Small = Callable[..., subprocess.CompletedProcess[str]]
SMALL_MEMORY_MIB, SMALL_LOAD_MIB = 384, 50


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Small:
    """The demo with a small guest, in this process: small(argument, ...)."""
    monkeypatch.setattr(demo, "MEMORY_MIB", SMALL_MEMORY_MIB)
    monkeypatch.setattr(demo, "LOAD_MIB", SMALL_LOAD_MIB)

    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        code, out, err = command_line(capsys)("demo", *argv)
        return subprocess.CompletedProcess(argv, code, out, err)

    return run


def check_demo(
    done: subprocess.CompletedProcess[str], platform: str, load_mib: int = demo.LOAD_MIB
) -> dict[str, Any]:
    assert done.returncode == 0, done.stdout + done.stderr
    data: dict[str, Any] = json.loads(done.stdout)
    assert data["platform"] == platform
    assert data["accel"] == ("tcg" if platform == "sev-snp" else accel.chosen())
    assert data["rounds"] >= 1 and data["phases"]
    assert 0 < data["downtime_seconds"] < data["total_seconds"]
    # Redis alone holds so much that no host knew before.
    assert data["bytes_sent"] > load_mib << 20
    assert data["client"]["operations_before"] > 0
    assert data["client"]["operations_after"] > 0
    assert data["client"]["mismatched_reads"] == 0
    assert data["client"]["broken_connections"] == 0
    assert data["secret_seen_in_transit"] is False
    assert data["transit"]["seen_in_plaintext_migration"] is True
    assert data["guest_memory_verified"] is True
    return data


SNP = ("demo", "--platform", "sev-snp", "--accel", "tcg", "--format", "json")
READS = {
    ("plain guest", "pmemsave"): "the secret",
    ("plain guest", "dump-guest-memory"): "the secret",
    ("SEV-SNP guest", "pmemsave"): "scrambled",
    ("SEV-SNP guest", "dump-guest-memory"): "refused",
    ("migrated guest", "pmemsave"): "refused",
    ("migrated guest", "dump-guest-memory"): "refused",
}


def namespaces() -> bool:
    """Whether this user may make them."""
    try:
        World().close()
    except NoNamespaces:
        return False
    return True


def test_demo(built: Built) -> None:
    """The whole, as `make demo` runs it."""
    data = check_demo(cpcctl(*SNP), "sev-snp")
    assert data["network"].startswith("two hosts in network namespaces") is namespaces()
    assert {(r["guest"], r["door"]): r["answer"] for r in data["host_reads"]} == READS
    assert "no protection from this host's root" in data["protection"]


def test_an_snp_guest_with_kvm_is_refused(built: Built) -> None:
    done = cpcctl("demo", "--platform", "sev-snp", "--accel", "kvm")
    assert (done.returncode, done.stdout) == (2, "")
    assert "has no hvCPUs yet" in done.stderr and "--platform plain" in done.stderr


def test_demo_of_a_plain_guest_without_namespaces(
    built: Built, small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where unshare is refused the demo says so and runs on a user-mode network."""
    refusing = tmp_path / "unshare"
    refusing.write_text("#!/bin/sh\necho 'unshare: Operation not permitted'\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    done = small("--platform", "plain", "--format", "json")
    assert "no namespaces for this user" in done.stderr
    data = check_demo(done, "plain", SMALL_LOAD_MIB)
    assert "user mode" in data["network"]
    assert data["host_reads"] == []


def test_bench_shape(
    built: Built, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(SCENARIOS, "idle-2g", Scenario("idle-2g", 256, 16))
    code, out, err = command_line(capsys)(
        "bench", "--format", "json", "--scenario", "idle-2g", "--repeat", "1"
    )
    assert code == 0, out + err
    (entry,) = json.loads(out)["results"]
    assert entry["scenario"] == "idle-2g" and entry["memory_mib"] == 256
    for side in ("ours", "qemu"):
        assert 0 < entry[side]["downtime_seconds"] < entry[side]["total_seconds"]
        assert entry[side]["min"]["total_seconds"] == entry[side]["max"]["total_seconds"]
    assert entry["ratio"]["total"] > 0


def test_bench_refuses_an_unknown_scenario() -> None:
    done = cpcctl("bench", "--scenario", "idle-2g,nonsense")
    assert done.returncode == 2
    assert "nonsense" in done.stderr and "filled-2g" in done.stderr


def test_the_check_finds_the_secret_in_a_plaintext_migration(built: Built, world: World) -> None:
    """The control on its own, and its opposite: another secret is not found."""
    guest = plain.PlainGuest(
        built.qemu, built.qemu_data, built.vmlinuz, built.tiny_initrd,
        "console=ttyS0 quiet cpc.job=secret:CPC-SECRET-planted-in-memory",
    )  # fmt: skip
    source, destination = plain.pair(world, guest)
    try:
        with Console(source.console) as console:
            console.wait_ready(source.log, patient(60))
            assert console.run("cat /data/secret").strip() == "CPC-SECRET-planted-in-memory"
        planted = watch.capture(world, b"CPC-SECRET-planted-in-memory")
        other = watch.capture(world, b"CPC-SECRET-never-planted-here")
        plain.migrate(source, destination, 300, patient(60))
        found, nothing = planted.finish(), other.finish()
        assert found["hits"] > 0 and found["missed"] == 0
        assert nothing["hits"] == 0 and nothing["bytes"] > 10 << 20
        with Console(destination.console) as console:
            assert "secret" in console.run("ls /data")
    finally:
        source.close()
        destination.close()
    wait_until("QEMU is gone", lambda: destination._process.poll() is not None, patient(10))


@pytest.mark.parametrize("where", ["host-a", "client"])
def test_helpers_say_why_they_do_not_start(world: World, where: str) -> None:
    with pytest.raises(RuntimeError, match="did not start"):
        watch.Helper(world, where, ["cpcctl.demo.client", "10.77.0.99", "1"])
