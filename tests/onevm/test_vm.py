# SPDX-License-Identifier: Apache-2.0
"""vm and hvcpu commands against the patched QEMU and the real firmware."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cpcctl import abi
from cpcctl.config.settings import Settings
from cpcctl.demo.console import Console
from cpcctl.errors import CpcError
from cpcctl.host.process import ProcessId
from cpcctl.host.qmp import QmpError
from cpcctl.host.shm import CallError
from cpcctl.vm import lifecycle, spec
from tests import accel
from tests.onevm import images
from tests.patience import patient

SLICE = 0.005


def wait_for(condition: Callable[[], Any], seconds: float, what: str) -> None:
    """Until it holds; fails with `what` otherwise."""
    deadline = time.monotonic() + patient(seconds)
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(SLICE)


def cpu_ticks(pid: int, thread: int) -> int:
    """CPU time a thread has used, in clock ticks."""
    fields = Path(f"/proc/{pid}/task/{thread}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_a_life(define: Any, cli: Any, place: Settings) -> None:
    path = define()
    code, out, err = cli("vm", "start", str(path))
    assert code == 0, err
    assert "trusted memory" in out
    assert err == (
        "plain: memory is not hidden from this host's root; "
        "the guest and the network cannot read what its hvCPUs hold\n"
    )
    code, out, _ = cli("vm", "status", "a", "--format", "json")
    shown = json.loads(out)
    assert (shown["state"], shown["machine"], shown["gvcpus"]) == ("running", "pc-q35-10.0", 2)
    assert [entry["state"] for entry in shown["hvcpus"]] == ["parked", "parked"]
    assert shown["trusted_bytes"] > 0

    code, out, err = cli("vm", "status", "a")
    assert (code, err.split(":")[0]) == (0, "plain")
    assert "trusted memory:" in out
    assert "trusted_bytes" not in out

    pid = shown["pid"]
    code, out, _ = cli("vm", "start", str(path), "--format", "json")
    again = json.loads(out)
    assert (code, again["changed"], again["pid"], again["state"]) == (0, False, pid, "running")
    assert cli("vm", "start", str(path))[1].startswith("a runs already: pc-q35-10.0, ")
    code, out, err = cli("vm", "start", str(define(vcpus=3, max_vcpus=3)))
    assert (code, out) == (3, "")
    assert err == (
        "error: VM a runs on host-a already\n"
        "  cause (host-a): it was started from a definition with another vcpus, max_vcpus\n"
        "  try: cpcctl vm status a: what runs here\n"
        f"  try: give the VM of {path} another name, if that is to stay\n"
    )
    with lifecycle.attach(place, "a").qmp(job=True) as qmp:
        qmp.execute("stop")
        code, _, err = cli("vm", "start", str(define()))
        assert (code, "the guest was paused" in err) == (3, True)
        assert "  try: cpcctl vm resume a\n" in err
        assert "the guest was paused" in cli("vm", "stop", "a")[2]
    assert cli("vm", "resume", "a")[1] == "resumed a (the guest was paused)\n"
    assert cli("vm", "pause", "a")[1] == "paused a\n"
    found = json.loads(cli("vm", "status", "a", "--format", "json")[1])
    assert (found["state"], found["reason"]) == ("paused", "the guest was paused")
    assert cli("vm", "resume", "a")[0] == 0
    assert lifecycle.attach(place, "a").process.pid == pid

    code, out, _ = cli("hvcpu", "ping", "a", "--format", "json")
    answers = json.loads(out)
    assert [answer["hvcpu"] for answer in answers] == [0, 1]
    assert all(answer["platform"] == "plain" and answer["suites"] for answer in answers)
    for answer in answers:
        assert answer["speeds"].keys() == set(answer["suites"])
        assert all(speed > 0 for both in answer["speeds"].values() for speed in both.values())

    assert cli("hvcpu", "add", "a")[1] == "added hvCPU 2\n"
    code, _, err = cli("hvcpu", "add", "a")
    assert (code, err.splitlines()[0]) == (3, "error: VM a has room for no more hvCPUs")
    assert cli("hvcpu", "ping", "a", "2")[0] == 0
    assert cli("hvcpu", "remove", "a", "2")[1] == "removed hvCPU 2\n"
    assert cli("hvcpu", "remove", "a", "2")[1] == "hvCPU 2 is not active\n"
    assert cli("hvcpu", "ping", "a", "2")[0] == 4
    assert cli("hvcpu", "ping", "a", "9")[0] == 2
    code, out, _ = cli("hvcpu", "list", "a", "--format", "json")
    assert [entry["state"] for entry in json.loads(out)] == ["parked", "parked", "inactive"]

    assert cli("vm", "stop", "a", "--force")[1] == "stopped a\n"
    assert cli("vm", "stop", "a", "--force")[1] == "a does not run\n"
    assert not (place.run_dir / "vms" / "a").exists()
    assert json.loads(cli("vm", "list", "--format", "json")[1]) == []
    code, _, err = cli("hvcpu", "ping", "a")
    assert (code, err.splitlines()[0]) == (2, "error: no VM a on host-a")


@pytest.mark.kvm
def test_the_chosen_accelerator_runs_guest_and_hvcpus(define: Any, place: Settings) -> None:
    """QEMU says so; the kernel has said so to the fixture. The guest sees no hvCPU; these
    answer while it is stopped."""
    vm = lifecycle.start(place, spec.load(define(append="console=ttyS0 quiet")))
    machines = accel.kvm_files(vm.process.pid).count("kvm-vm")
    assert machines == (2 if accel.chosen() == "kvm" else 0), "one for each view of memory"
    with vm.qmp() as qmp:
        assert qmp.require_cpc()["accelerator"] == accel.chosen()
        assert len(qmp.execute("query-cpus-fast")) == 2
        with Console(vm.paths.console) as shell:
            shell.wait_ready(vm.paths.console_log, patient(120))
            assert shell.run("nproc").strip() == "2"
            seen = shell.run("ls -d /sys/devices/system/cpu/cpu[0-9]*")
            assert re.findall(r"cpu/(cpu\d+)", seen) == ["cpu0", "cpu1"]
        assert qmp.execute("query-status")["running"]
        qmp.execute("stop")
        with vm.rings() as rings:
            vm.hvcpu(qmp, rings, 0).ping()
        assert qmp.execute("query-status")["status"] == "paused"
        qmp.execute("cont")


def test_parked_hvcpus_use_no_cpu(define: Any, place: Settings) -> None:
    vm = lifecycle.start(place, spec.load(define(kernel=None, initrd=None, append=None)))
    with vm.qmp() as qmp, vm.rings() as rings:
        threads = [entry["thread-id"] for entry in qmp.require_cpc()["hvcpus"]]
        before = [cpu_ticks(vm.process.pid, thread) for thread in threads]
        ended = time.monotonic() + 1.0
        # One works all the time; the other two are the measurement.
        while time.monotonic() < ended:
            vm.hvcpu(qmp, rings, 0).ping()
        after = [cpu_ticks(vm.process.pid, thread) for thread in threads]
    assert after[1:] == before[1:]


def test_hvcpus_answer_a_thousand_calls(define: Any, place: Settings) -> None:
    vm = lifecycle.start(place, spec.load(define()))
    with vm.qmp() as qmp, vm.rings() as rings:
        hvcpu = vm.hvcpu(qmp, rings, 1)
        first = hvcpu.ping().calls
        for _ in range(1000):
            last = hvcpu.ping().calls
        assert last == first + 1000


def test_bad_calls_have_their_own_status_and_harm_nothing(define: Any, place: Settings) -> None:
    vm = lifecycle.start(place, spec.load(define()))
    wanted = {
        (abi.OP(99, 1), ()): abi.S_UNKNOWN_OP,
        (abi.OP_FREEZE, ()): abi.S_NO_SESSION,
        (abi.OP_OPEN, (7, 2)): abi.S_BAD_ARGUMENT,
    }
    with vm.qmp() as qmp, vm.rings() as rings:
        hvcpu = vm.hvcpu(qmp, rings, 0)
        for (op, args), status in wanted.items():
            with pytest.raises(CallError) as caught:
                hvcpu.call(op, args)
            assert caught.value.status == status
        hvcpu.ping()
        assert qmp.execute("query-status")["running"]


def test_two_sessions_at_once(define: Any, place: Settings) -> None:
    vm = lifecycle.start(place, spec.load(define()))
    with vm.qmp(job=True) as job, vm.qmp() as other:
        assert job.execute("query-status") == other.execute("query-status")
        with pytest.raises(CpcError) as caught:
            vm.qmp(timeout=0.5)
        assert "another program holds its socket" in (caught.value.cause or "")


@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_an_incoming_machine_stays_frozen(
    machine: str, define: Any, place: Settings, tmp_path: Path
) -> None:
    disk = tmp_path / "d.raw"
    disk.write_bytes(bytes(1 << 20))
    path = define(
        machine=machine, max_vcpus=4, memory_blocks=2, max_memory="512M",
        disks=[{"path": str(disk), "format": "raw", "cache": "writeback"}],
        nics=[{"mode": "user"}],
    )
    vm = lifecycle.start(place, spec.load(path), incoming=True)
    assert vm.spec.machine in ("pc-q35-10.0", "pc-i440fx-10.0")
    assert lifecycle.status(place, "a")["state"] == "frozen"
    with vm.qmp() as qmp:
        assert not any(node["active"] for node in qmp.execute("query-named-block-nodes"))
        with pytest.raises(QmpError, match="refused cont"):
            qmp.execute("cont")
    # Its disk is not locked: the source, on the same machine, has it open.
    source = spec.load(define(
        name="b", machine=machine,
        disks=[{"path": str(disk), "format": "raw", "cache": "writeback"}],
    ))
    lifecycle.start(place, source)
    third = spec.load(define(
        name="c", disks=[{"path": str(disk), "format": "raw", "cache": "writeback"}],
    ))
    with pytest.raises(CpcError) as caught:
        lifecycle.start(place, third)
    assert 'Failed to get "write" lock' in (caught.value.cause or "")
    assert caught.value.exit_code == 3
    assert not (place.run_dir / "vms" / "c").exists()


def test_qemus_words_reach_the_operator(define: Any, cli: Any, place: Settings) -> None:
    code, _, err = cli("vm", "start", str(define(devices=["no-such-device"])))
    assert code == 3
    assert "error: QEMU refuses to start VM a\n" in err
    assert "'no-such-device' is not a valid device model name" in err
    assert "doctor" not in err
    code, _, err = cli("vm", "start", str(define(cpu="nonsense")))
    assert code == 3
    assert "unable to find CPU model 'nonsense'" in err
    assert "doctor" not in err
    assert json.loads(cli("vm", "list", "--format", "json")[1]) == []
    assert cli("vm", "start", str(define()))[0] == 0


def test_a_missing_tap_is_refused_and_not_made(define: Any, cli: Any, place: Settings) -> None:
    code, _, err = cli("vm", "start", str(define(nics=[{"mode": "tap", "tap": "cpc-none"}])))
    assert code == 3
    assert "error: VM a needs the network device cpc-none, which is not there\n" in err
    assert "  try: ip tuntap add dev cpc-none mode tap" in err
    assert not Path("/sys/class/net/cpc-none").exists()
    assert not (place.run_dir / "vms" / "a").exists()


def test_a_qemu_that_is_none(cli: Any, place: Settings) -> None:
    code, out, _ = cli("doctor", "--qemu", "/bin/true", "--format", "json")
    check = next(c for c in json.loads(out)["checks"] if c["name"] == "qemu")
    assert code == 3
    assert check["reason"] == (
        "/bin/true does not run as QEMU: it ended with status 0 without a QMP greeting: "
        "it is not QEMU"
    )
    assert check["fix"] == "make qemu, or set CPCCTL_QEMU"


def test_a_missing_qmp_socket(define: Any, cli: Any, place: Settings) -> None:
    vm = lifecycle.start(place, spec.load(define()))
    vm.paths.qmp.unlink()
    code, out, err = cli("vm", "status", "a")
    assert code == 4
    assert "state:" in out
    assert f"  cause (host-a): {vm.paths.qmp}: No such file or directory\n" in err
    assert "  try: cpcctl job list --vm a: a job may hold its socket\n" in err
    assert "stop" not in err, "it may run"
    assert "Errno" not in out + err


@pytest.mark.parametrize("kind", ["null", "file", "closed"])
def test_a_console_without_a_terminal(
    kind: str, define: Any, place: Settings, tmp_path: Path
) -> None:
    lifecycle.start(place, spec.load(define()))
    (tmp_path / "in").write_text("\n")
    shell = {"null": "</dev/null", "file": f"<{tmp_path / 'in'}", "closed": "<&-"}[kind]
    done = subprocess.run(
        f"exec {sys.executable} -m cpcctl vm console a {shell}", shell=True, timeout=patient(30),
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
    )
    assert (done.returncode, done.stderr) == (0, "connected to a; leave with Ctrl-]\n")


def test_a_stop_says_that_it_waits(define: Any, cli: Any, place: Settings) -> None:
    # Nothing is booted, so nobody hears the power button.
    lifecycle.start(place, spec.load(define(kernel=None, initrd=None, append=None)))
    code, _, err = cli("vm", "stop", "a", "--timeout", "0.2")
    assert code == 6
    assert err.startswith("waiting for the guest to shut down (up to 0.2 s)\nerror: ")
    assert cli("vm", "stop", "a", "--force")[2] == ""


def test_an_unknown_machine_type(define: Any, cli: Any) -> None:
    code, _, err = cli("vm", "start", str(define(machine="pc-q35-99.0")))
    assert code == 3
    assert "has no machine pc-q35-99.0" in err


def test_a_killed_qemu_is_seen_and_the_name_is_free_again(
    define: Any, cli: Any, place: Settings
) -> None:
    path = define()
    vm = lifecycle.start(place, spec.load(path))
    vm.process.signal(signal.SIGKILL)
    wait_for(lambda: not vm.alive, 10, "QEMU survived SIGKILL")
    assert lifecycle.status(place, "a")["state"] == "stopped"
    code, _, err = cli("hvcpu", "ping", "a")
    assert (code, err.splitlines()[0]) == (4, "error: VM a does not run")
    assert cli("vm", "start", str(path))[0] == 0


def test_a_recycled_process_number_is_not_ours(define: Any, cli: Any, place: Settings) -> None:
    path = define()
    vm = lifecycle.start(place, spec.load(path))
    vm.kill()
    me = ProcessId.myself()
    record = json.loads(vm.paths.process.read_bytes()) | {"pid": me.pid}
    vm.paths.process.write_text(json.dumps(record))
    assert lifecycle.status(place, "a")["state"] == "stopped"
    assert cli("vm", "stop", "a", "--force")[1] == "a does not run\n"
    assert me.alive


def test_a_missing_ring_file(define: Any, cli: Any, place: Settings) -> None:
    vm = lifecycle.start(place, spec.load(define()))
    vm.paths.ring.unlink()
    code, _, err = cli("hvcpu", "ping", "a")
    assert code == 4
    assert "the ring file" in err
    assert "No such file or directory" in err


@pytest.mark.slow
def test_a_stopped_qemu_does_not_hang_us(define: Any, cli: Any, place: Settings) -> None:
    vm = lifecycle.start(place, spec.load(define()))
    os.kill(vm.process.pid, signal.SIGSTOP)
    try:
        shown = lifecycle.status(place, "a")
    finally:
        os.kill(vm.process.pid, signal.SIGCONT)
    assert shown["state"] == "unreachable"
    assert "no QMP greeting" in shown["error"]


def test_doctor_and_version_on_a_whole_host(cli: Any, place: Settings) -> None:
    code, out, _ = cli("doctor", "--format", "json")
    checks = {check["name"]: check for check in json.loads(out)["checks"]}
    assert code == 0, checks
    assert checks["hvcpu-ping"]["ok"] is True
    code, out, _ = cli("version", "--format", "json")
    shown = json.loads(out)
    assert shown["qemu"].startswith("10.0.")
    assert shown["qemu_patched"] is True
    assert shown["firmware"]


@pytest.fixture
def broken_firmware(built: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The real image, but its first instruction is an invalid one. The probe finds that
    hvCPUs die with KVM; who asks for KVM gets it nevertheless, since guests run."""
    # Its verdict takes no place of the one that the other tests share.
    monkeypatch.setenv("CPCCTL_KVM_VERDICT", str(tmp_path / "verdict"))
    return images.damaged(built.firmware, tmp_path)


@pytest.mark.kvm
def test_a_dead_hvcpu_is_reported_and_the_guest_goes_on(
    define: Any, cli: Any, place: Settings, broken_firmware: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CPCCTL_FIRMWARE", str(broken_firmware))
    path = define(hvcpus=0, kernel=None, initrd=None, append=None)
    assert cli("vm", "start", str(path))[0] == 0
    vm = lifecycle.attach(place, "a")
    with vm.qmp(job=True) as qmp:
        assert cli("hvcpu", "add", "a")[0] == 0
        event = qmp.wait_event(lambda e: bool(e["event"] == "CPC_HVCPU_DEAD"), patient(10))
        assert event["data"] == {"id": 0, "reason": "triple fault"}
        assert qmp.require_cpc()["hvcpus"][0]["state"] == "dead"
    code, _, err = cli("hvcpu", "ping", "a")
    assert code == 4
    assert "hvCPU 0 is dead" in err
    assert "  cause (host-a): " in err
    shown = json.loads(cli("hvcpu", "list", "a", "--format", "json")[1])
    assert shown[0]["state"] == "dead"
    assert shown[0]["reason"] == "triple fault"
    assert lifecycle.status(place, "a")["state"] == "running"
    with vm.rings() as rings:
        assert not rings.mailbox(0).pending
    assert cli("hvcpu", "remove", "a", "0")[0] == 0


def test_a_firmware_that_dies_at_once_leaves_no_vm(
    define: Any, cli: Any, place: Settings, broken_firmware: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CPCCTL_FIRMWARE", str(broken_firmware))
    code, _, err = cli("vm", "start", str(define()))
    assert code == 4
    assert "hvCPU 0 is dead" in err
    assert not (place.run_dir / "vms" / "a").exists()


def test_a_firmware_of_another_abi_is_refused(
    define: Any, cli: Any, built: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = bytearray(built.firmware.read_bytes())
    image[abi.ImageHeader.abi.offset] = 99
    path = tmp_path / "other.bin"
    path.write_bytes(image)
    monkeypatch.setenv("CPCCTL_FIRMWARE", str(path))
    code, _, err = cli("vm", "start", str(define()))
    assert code == 3
    assert f"ABI 99; expected ABI {abi.ABI_VERSION}" in err
