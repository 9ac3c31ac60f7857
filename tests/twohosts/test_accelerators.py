# SPDX-License-Identifier: Apache-2.0
"""A VM keeps its accelerator when it moves, or does not move."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import accel
from tests.onevm import images
from tests.twohosts.pair import IDLE, Pair, finish, until


# Not marked kvm: TCG in the nested guest is an emulator in an emulator.
def test_a_guest_with_tcg_goes_on_with_tcg_where_kvm_is_preferred(pair: Pair) -> None:
    name = pair.vm(accel="tcg", **IDLE)
    pair.b.env["CPCCTL_ACCEL"] = "kvm"
    receive, ticket = pair.receive()
    finish(pair.migrate(name, ticket), 0)
    finish(receive, 0)
    pair.check_one_side(name, "b")
    shown = json.loads(pair.b.run("vm", "status", name, "--format", "json").stdout)
    assert shown["accel"] == "tcg"


@pytest.mark.kvm
def test_a_guest_with_kvm_is_refused_where_kvm_fails(pair: Pair) -> None:
    """b's QEMU is ours, but cannot have KVM: as on a host where it does not work."""
    if accel.chosen() != "kvm":
        pytest.skip("needs KVM to start from; make test-kvm runs it")
    name = pair.vm(accel="kvm", **IDLE)
    qemu = Path(pair.folder / "qemu")
    words = "qemu-system-x86_64: Could not access KVM kernel module"
    qemu.write_text(
        '#!/bin/sh\ncase " $* " in *" -accel kvm "*) '
        f'echo "{words}" >&2; exit 1;; esac\nexec {pair.built.qemu} "$@"\n'
    )
    qemu.chmod(0o755)
    pair.b.env["CPCCTL_QEMU"] = str(qemu)
    pair.b.env["CPCCTL_ACCEL"] = "auto"
    pair.b.env["CPCCTL_KVM_VERDICT"] = str(pair.folder / "verdict")
    receive, ticket = pair.receive()
    done = finish(pair.migrate(name, ticket), 3)
    assert "accelerator: " in done.stderr
    assert "Could not access KVM kernel module" in done.stderr
    receive.terminate()
    finish(receive, None)
    pair.check_one_side(name, "a")


@pytest.mark.kvm
def test_registers_that_the_destinations_kvm_refuses(pair: Pair) -> None:
    """Its firmware hears of it and aborts: the guest goes on at the source."""
    if accel.chosen() != "kvm":
        pytest.skip("needs KVM; make test-kvm runs it")
    # A small guest that has paging on, as is refused there, and writes nothing.
    quiet = {**IDLE, "kernel": str(images.probe(pair.built.firmware))}
    name, refused = pair.vm(memory="64M", **quiet), pair.folder / "refused"
    log = pair.a.folder / "s/vms" / name / "console.log"
    until(lambda: "R\n" in log.read_text(errors="replace"), "the guest to be ready")
    qemu = pair.folder / "qemu"
    qemu.write_text(
        '#!/bin/sh\ncase " $* " in *,incoming=on*) '
        f"export LD_PRELOAD={images.refusal()} CPC_TEST_REFUSED={refused};; esac\n"
        f'exec {pair.built.qemu} "$@"\n'
    )
    qemu.chmod(0o755)
    pair.b.env["CPCCTL_QEMU"] = str(qemu)
    receive, ticket = pair.receive()
    # It need not be fast enough for the usual downtime.
    done = finish(pair.migrate(name, ticket, "--max-downtime", "10000"), 1)
    finish(receive, None)
    assert refused.read_bytes(), "nothing was refused"
    assert "the platform refused" in done.stderr
    pair.check_one_side(name, "a")
