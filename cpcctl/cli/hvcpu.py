# SPDX-License-Identifier: Apache-2.0
"""cpcctl hvcpu add, remove, list and ping."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from cpcctl import abi
from cpcctl.cli import arguments
from cpcctl.errors import CpcError, ExitCode
from cpcctl.host import suite_speed
from cpcctl.host.qmp import Qmp
from cpcctl.host.state import Folders, VmLock
from cpcctl.ui import interrupts
from cpcctl.ui.context import Context
from cpcctl.ui.output import table
from cpcctl.vm import command, lifecycle

NUMBER = arguments.whole(0, abi.HVCPU_LIMIT - 1)


def _vm(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="VM", help="name of the VM")


def _attach(args: argparse.Namespace, ctx: Context) -> lifecycle.Vm:
    """The VM, if it can have hvCPUs."""
    vm = lifecycle.attach(ctx.settings, args.name)
    if not command.has_hvcpus(vm.spec):
        raise CpcError(
            f"VM {args.name} has no hvCPUs",
            exit_code=ExitCode.REFUSED,
            cause=command.no_hvcpus(vm.spec),
            hint=f"cpcctl vm status {args.name}",
        )
    return vm


@contextlib.contextmanager
def _locked(
    args: argparse.Namespace, ctx: Context, purpose: str
) -> Iterator[tuple[lifecycle.Vm, Qmp]]:
    """The VM and a session, with nobody else using its hvCPUs meanwhile."""
    vm = _attach(args, ctx)
    with VmLock.take(Folders.of(ctx.settings), args.name, purpose), vm.session() as qmp:
        yield vm, qmp


def _hvcpus(count: int) -> str:
    return "hvCPU" if count == 1 else "hvCPUs"


def _active(qmp: Qmp) -> dict[int, dict[str, Any]]:
    entries = qmp.require_cpc()["hvcpus"]
    return {entry["id"]: entry for entry in entries if entry["state"] != "inactive"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of hvcpu add."""
    _vm(parser)
    parser.add_argument(
        "--count", type=arguments.whole(1, abi.HVCPU_LIMIT), default=1, metavar="N",
        help="how many to add (default: 1)",
    )


@interrupts.without()
def add_run(args: argparse.Namespace, ctx: Context) -> int:
    """Activate hvCPUs; all of them or none."""
    with _locked(args, ctx, "hvcpu add") as (_, qmp):
        room = qmp.require_cpc()["hvcpu-max"] - len(_active(qmp))
        if args.count > room:
            raise CpcError(
                f"VM {args.name} has room for {room or 'no'} more {_hvcpus(room)}",
                exit_code=ExitCode.REFUSED,
                cause="hvcpu_max is fixed when a VM is started",
                hint=f"cpcctl hvcpu list {args.name}",
            )
        added: list[int] = []
        try:
            for _ in range(args.count):
                added.append(qmp.execute("cpc-hvcpu-add")["id"])
        except CpcError:
            for number in added:
                qmp.execute("cpc-hvcpu-remove", id=number)
            raise
    numbers = ", ".join(map(str, added))
    ctx.out.result({"name": args.name, "added": added}, f"added {_hvcpus(len(added))} {numbers}")
    return 0


def remove_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of hvcpu remove."""
    _vm(parser)
    parser.add_argument("id", type=NUMBER, metavar="ID", help="number of the hvCPU")


@interrupts.without()
def remove_run(args: argparse.Namespace, ctx: Context) -> int:
    """Deactivate an hvCPU; one that is not active is fine."""
    with _locked(args, ctx, "hvcpu remove") as (vm, qmp):
        _check_number(args, vm)
        changed = args.id in _active(qmp)
        if changed:
            qmp.execute("cpc-hvcpu-remove", id=args.id)
    text = f"removed hvCPU {args.id}" if changed else f"hvCPU {args.id} is not active"
    ctx.out.result({"name": args.name, "id": args.id, "changed": changed}, text)
    return 0


def _check_number(args: argparse.Namespace, vm: lifecycle.Vm) -> None:
    if not 0 <= args.id < vm.spec.hvcpu_max:
        raise CpcError(
            f"VM {args.name} has no hvCPU {args.id}",
            exit_code=ExitCode.USAGE,
            cause=f"hvcpu_max is {vm.spec.hvcpu_max}; numbers begin at 0",
            hint=f"cpcctl hvcpu list {args.name}",
        )


def list_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of hvcpu list."""
    _vm(parser)


def list_run(args: argparse.Namespace, ctx: Context) -> int:
    """List every hvCPU of a VM, inactive ones too."""
    vm = _attach(args, ctx)
    with vm.qmp() as qmp:
        entries = qmp.require_cpc()["hvcpus"]
    found = [
        {
            "id": entry["id"],
            "state": entry["state"],
            "thread_id": entry["thread-id"],
            "wakes": entry["wakes"],
            "reason": entry.get("reason"),
        }
        for entry in entries
    ]
    rows = [
        (entry["id"], entry["state"], entry["thread_id"], entry["wakes"], entry["reason"] or "")
        for entry in found
    ]
    ctx.out.result(found, table(("ID", "STATE", "THREAD", "WAKES", "REASON"), rows))
    return 0


def ping_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of hvcpu ping."""
    _vm(parser)
    parser.add_argument(
        "id", type=NUMBER, nargs="?", metavar="ID",
        help="number of the hvCPU (default: all)",
    )


def ping_run(args: argparse.Namespace, ctx: Context) -> int:
    """Call the firmware and show its answer, how long it took, and how fast its ciphers are."""
    answers = []
    with _locked(args, ctx, "hvcpu ping") as (vm, qmp), vm.rings() as rings:
        if args.id is not None:
            _check_number(args, vm)
        active = _active(qmp)
        numbers = sorted(active) if args.id is None else [args.id]
        if not numbers or any(number not in active for number in numbers):
            missing = "no hvCPU" if args.id is None else f"hvCPU {args.id} not"
            raise CpcError(
                f"VM {args.name} has {missing} active",
                exit_code=ExitCode.UNREACHABLE,
                hint=f"cpcctl hvcpu add {args.name}",
            )
        for number in numbers:
            answers.append(vm.hvcpu(qmp, rings, number).ping())
        speeds = suite_speed.shown(vm.paths.suite_speeds, vm.hvcpu(qmp, rings, numbers[0]))
    rows = [
        (a.hvcpu, a.version, a.platform, a.calls, f"{a.seconds * 1e6:.0f} us") for a in answers
    ]
    text = table(("ID", "FIRMWARE", "PLATFORM", "CALLS", "TIME"), rows)
    ciphers = [
        (name, *(suite_speed.text(found[way]) if found else "-" for way in ("seal", "open")))
        for name, found in ((name, speeds.get(name)) for name in answers[0].suites)
    ]
    text += "\n\n" + table(("SUITE", "SEAL", "OPEN"), ciphers)
    ctx.out.result([asdict(answer) | {"speeds": speeds} for answer in answers], text)
    return 0
