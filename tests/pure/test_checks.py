# SPDX-License-Identifier: Apache-2.0
"""Every preflight check, passing and failing by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cpcctl import abi
from cpcctl.errors import CpcError, ExitCode
from cpcctl.host.beneath import Outside
from cpcctl.migrate import admit, checks, facts
from cpcctl.migrate.checks import DestinationFacts, SourceFacts
from cpcctl.snp import hardware
from cpcctl.ui.check import Check, refusal
from cpcctl.vm import protection
from cpcctl.vm.files import Files
from cpcctl.vm.spec import VmSpec

SPEC = VmSpec(name="t", memory=1 << 30, machine="pc-q35-10.0", accel="tcg")
THERE = SourceFacts("host-a", "plain", 1, "0.1.0", 1 << 30, ("aes", "avx2"))
HERE = DestinationFacts(
    "host-b", "plain", 1, "0.1.0", False, 2 << 30, 3 << 30, frozenset({"pc-q35-10.0"}), (),
    ("aes", "avx2", "vaes"),
)


def failed(found: list[Check]) -> list[str]:
    return [check.name for check in found if not check.ok]


def test_a_check_that_passed_says_nothing_of_failure() -> None:
    """Of every check of either side, whatever is wrong with the others."""
    here = replace(HERE, name_taken=True, machines=frozenset(), kvm=("no /dev/kvm", ""))
    found = checks.source_checks(SPEC, [], {0: "dead"}, "paused", "host-a")
    found += checks.destination_checks(replace(SPEC, accel="kvm"), THERE, here)
    found += admit.judge(SPEC, Files(problems={"/k": Outside(1, "outside", "/k")}), "host-b")
    assert {check.ok for check in found} == {True, False}
    assert {check.host for check in found} == {"host-a", "host-b"}
    for host in ("host-a", "host-b"):
        names = [check.name for check in found if check.host == host]
        assert len(names) == len(set(names)), names
    for check in found:
        if check.ok:
            assert (check.reason, check.fix) == (None, None), check
        else:
            assert check.reason, check
            assert check.reason == check.reason.strip(" ,:;."), check
            assert check.document() == {
                "name": check.name, "host": check.host, "ok": False, "reason": check.reason,
                "fix": check.fix,
            }


def test_all_is_well() -> None:
    here = checks.source_checks(SPEC, ["qemu", "-S"], {0: "parked"}, "running", "host-a")
    assert failed(here) == []
    assert failed(checks.destination_checks(SPEC, THERE, HERE)) == []
    assert refusal([]) is None


@pytest.mark.parametrize(
    ("spec", "argv", "hvcpus", "state", "name"),
    [
        (replace(SPEC, devices=("vfio-pci,host=01:00.0",)), [], {0: "parked"}, "running",
         ["passthrough"]),
        (SPEC, ["-device", "usb-host,vendorid=1"], {0: "parked"}, "running", ["passthrough"]),
        (replace(SPEC, devices=("tpm-crb,tpmdev=x",)), [], {0: "parked"}, "running", ["vtpm"]),
        (replace(SPEC, machine="q35"), [], {0: "parked"}, "running", ["machine-versioned"]),
        (SPEC, [], {}, "running", ["hvcpu"]),
        (SPEC, [], {0: "dead"}, "running", ["hvcpu", "hvcpu-alive"]),
        (SPEC, [], {0: "parked", 1: "dead"}, "running", ["hvcpu-alive"]),
        (SPEC, [], {0: "parked"}, "frozen", ["running"]),
        (SPEC, [], {0: "parked"}, "paused", ["running"]),
    ],
)
def test_source(
    spec: VmSpec, argv: list[str], hvcpus: dict[int, str], state: str, name: list[str]
) -> None:
    found = checks.source_checks(spec, argv, hvcpus, state, "host-a")
    assert failed(found) == name
    error = refusal(found)
    assert error is not None
    assert error.exit_code is ExitCode.REFUSED
    assert error.hint


@pytest.mark.parametrize(
    ("missing", "hint"),
    [
        (("avx", "aes"), "start the VM with cpu: {},aes=off,avx=off"),
        (tuple(f"f{n}" for n in range(9)), "start the VM with a cpu that both hosts have"),
    ],
)
def test_what_to_write_where_cpus_differ(missing: tuple[str, ...], hint: str) -> None:
    here = replace(HERE, cpu=())
    error = refusal(checks.destination_checks(SPEC, replace(THERE, cpu=missing), here))
    assert error is not None
    assert error.hint == hint.format(SPEC.cpu)


AGAIN = "cpcctl hvcpu remove web 1, then cpcctl hvcpu add web"


@pytest.mark.parametrize(
    ("spec", "hvcpus", "hint"),
    [
        (SPEC, {}, "cpcctl hvcpu add web"),
        (SPEC, {0: "parked", 1: "dead"}, AGAIN),
        (SPEC, {1: "dead"}, AGAIN),
    ],
)
def test_what_to_do_about_hvcpus(spec: VmSpec, hvcpus: dict[int, str], hint: str) -> None:
    error = refusal(checks.source_checks(spec, [], hvcpus, "running", "host-a"))
    assert error is not None
    assert error.hint == hint.replace("web", spec.name)


@pytest.mark.parametrize(
    ("here", "there", "name"),
    [
        ({"name_taken": True}, {}, "name"),
        ({"missing_commands": ("query-cpc",)}, {}, "qemu"),
        ({"machines": frozenset({"pc-q35-9.0"})}, {}, "machine"),
        ({}, {"ram": 2 << 30}, "ram"),
        ({"memory_available": 1 << 30}, {}, "memory"),
        ({"cpu": ("aes",)}, {}, "cpu"),
        ({"platform": "sev-snp"}, {}, "platform"),
        ({"firmware_version": "0.2.0"}, {}, "firmware"),
        ({"abi": abi.ABI_VERSION + 1}, {}, "firmware"),
    ],
)
def test_destination(here: dict[str, Any], there: dict[str, Any], name: str) -> None:
    found = checks.destination_checks(SPEC, replace(THERE, **there), replace(HERE, **here))
    assert failed(found) == [name]
    error = refusal(found)
    assert error is not None
    assert f"{name}: " in (error.cause or "")


def test_an_snp_guest_moves_in_the_emulation_only() -> None:
    spec = replace(SPEC, platform="sev-snp", accel="kvm")
    error = refusal([checks.movable(spec, "host-a")])
    assert error is not None
    assert error.exit_code is ExitCode.REFUSED
    assert error.cause == (
        "platform: hvCPUs move a guest; in sev-snp guests under kvm they are to come"
    )
    kind = protection.kind("sev-snp", "kvm")
    there, here = replace(THERE, platform=kind), replace(HERE, platform=kind)
    assert failed(checks.destination_checks(spec, there, here)) == ["platform"]
    assert checks.movable(replace(spec, accel="tcg"), "host-a").ok
    assert checks.movable(SPEC, "host-a").ok


@pytest.mark.parametrize(
    ("platform", "accel", "lacks", "kind"),
    [
        ("plain", "kvm", True, "plain"), ("sev-snp", "tcg", True, "sev-snp-emulated"),
        ("sev-snp", "kvm", False, "sev-snp"), ("sev-snp", "kvm", True, "plain"),
    ],
)
def test_what_a_destination_makes_of_a_guest(
    platform: str, accel: str, lacks: bool, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [hardware.Obstacle("no /dev/sev", "modprobe ccp")] if lacks else []
    monkeypatch.setattr(hardware, "obstacles", lambda: found)
    assert facts.platform_here(replace(SPEC, platform=platform, accel=accel)) == kind


def test_an_emulated_snp_guest_is_no_real_one() -> None:
    spec = replace(SPEC, platform="sev-snp", accel="tcg")
    real, emulated = "sev-snp", "sev-snp-emulated"
    for there, here, wrong in (
        (emulated, emulated, []), (real, emulated, ["platform"]),
        (emulated, real, ["platform"]), (emulated, "plain", ["platform"]),
    ):
        found = checks.destination_checks(
            spec, replace(THERE, platform=there), replace(HERE, platform=here)
        )
        assert failed(found) == wrong, (there, here)


KVM = replace(SPEC, accel="kvm")
BROKEN = ("there is no /dev/kvm", "modprobe kvm_amd")


@pytest.mark.parametrize(
    ("spec", "kvm", "wrong"),
    [
        (SPEC, ("", ""), []),
        (KVM, ("", ""), []),
        (KVM, BROKEN, ["accelerator"]),
        (replace(SPEC, accel="auto"), ("", ""), ["accelerator"]),
    ],
)
def test_the_accelerator_travels(spec: VmSpec, kvm: tuple[str, str], wrong: list[str]) -> None:
    found = checks.destination_checks(spec, THERE, replace(HERE, kvm=kvm))
    assert failed(found) == wrong
    if kvm == BROKEN:
        error = refusal(found)
        assert error is not None
        assert error.cause == (
            "accelerator: the guest runs with KVM, which does not work on host-b: "
            "there is no /dev/kvm"
        )
        assert error.hint == "modprobe kvm_amd, on host-b\nor start the VM with accel: tcg"


def test_travels_over_the_link() -> None:
    found = checks.destination_checks(SPEC, THERE, replace(HERE, name_taken=True))
    assert checks.read([checks.result(check) for check in found], "host-b") == found
    there = checks.read([checks.result(check) for check in found], "another")
    assert {check.host for check in there} == {"another"}, "its name is what it was called by"
    error = refusal(there, peer=True)
    assert error is not None
    assert error.hint is None
    assert "it suggests: \"cpcctl vm status t, on host-b" in (error.cause or "")
    assert facts.read_source(facts.source_document(THERE)) == THERE


@pytest.mark.parametrize(
    ("key", "value"),
    [("host", 1), ("host", "x" * 999), ("abi", True), ("ram", -1), ("cpu", "aes"), ("cpu", [1]),
     ("platform", None)],
)
def test_nonsense_facts(key: str, value: object) -> None:
    with pytest.raises(CpcError) as caught:
        facts.read_source({**facts.source_document(THERE), key: value})
    assert caught.value.exit_code is ExitCode.REFUSED
    with pytest.raises(CpcError):
        facts.read_source([])
