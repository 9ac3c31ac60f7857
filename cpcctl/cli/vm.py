# SPDX-License-Identifier: Apache-2.0
"""cpcctl vm start, stop, list and status."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from cpcctl.accel import choose
from cpcctl.cli import arguments
from cpcctl.cli.arguments import seconds
from cpcctl.errors import CpcError, ExitCode
from cpcctl.host.files import open_regular
from cpcctl.host.state import Folders
from cpcctl.snp import checks as snp_checks
from cpcctl.snp import definition as snp
from cpcctl.ui import hints, interrupts
from cpcctl.ui.context import Context
from cpcctl.ui.output import number, pairs, size, table
from cpcctl.vm import command, lifecycle, prepare, protection, same, spec
from cpcctl.vm.files import open_files, refuse
from cpcctl.vm.spec import VmSpec

# How text output names what JSON has another name for.
LABELS = {
    "trusted_bytes": "trusted memory",
    "hvcpu_max": "most hvCPUs",
    "hvcpus": "hvCPUs",
    "gvcpus": "gvCPUs",
    "firmware_version": "firmware",
    "launch_digest": "launch digest",
    "log": "QEMU's log",
    "console_log": "console log",
}


def start_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of vm start."""
    parser.add_argument("file", metavar="FILE", help="YAML definition of the VM")
    parser.add_argument(
        "--print-command",
        action="store_true",
        help="print QEMU's command line, of an SEV-SNP guest its launch digest too, and "
        "start nothing",
    )
    parser.add_argument(
        "--force", action="store_true",
        help="start it here although it moved to another host, where it is gone",
    )
    parser.add_argument(
        "--unsettled", action="store_true",
        help="start it here although a migration of it is not settled: its guest is given up",
    )
    arguments.accel(parser, "what FILE says, else ")


def start_run(args: argparse.Namespace, ctx: Context) -> int:
    """Start a VM and say what was made; one that runs as FILE says is fine."""
    wanted = spec.load(Path(args.file))
    if args.print_command:
        return _print_command(args, ctx, wanted)
    return _start(args, ctx, wanted)


@interrupts.without()
def _start(args: argparse.Namespace, ctx: Context, wanted: VmSpec) -> int:
    from cpcctl.migrate.recovery import moved

    changed = True
    try:
        vm = lifecycle.start(
            ctx.settings, wanted, accel=args.accel, note=ctx.out.note,
            check=lambda: moved.refuse_second(
                ctx.settings, wanted.name, args.file, moved=args.force, unsettled=args.unsettled
            ),
        )  # fmt: skip
        try:
            moved.note_started(ctx.settings, vm.name)
        except CpcError as error:
            ctx.out.note(f"that VM {vm.name} is here again was not noted: {error.cause}")
        found = lifecycle.status(ctx.settings, vm.name)
    except lifecycle.RunsAlready as error:
        changed, vm = False, error.vm
        with interrupts.heard():
            found = _as_wanted(args, ctx, wanted, error)
    except KeyboardInterrupt as stop:
        raise CpcError(
            f"VM {wanted.name} was not started: {interrupts.word(stop)}",
            exit_code=interrupts.exit_code(stop),
        ) from stop
    ctx.out.note(protection.line(vm.spec.platform, vm.spec.accel, debug=vm.spec.snp.debug))
    try:
        found |= _migratable(ctx, vm.name)
    except CpcError as error:
        ctx.out.note(f"whether VM {vm.name} can migrate is not known: {error.message}")
    for entry in found.get("obstacles", ()):
        ctx.out.note(f"VM {vm.name} cannot migrate as it is: {entry['reason']}")
    ctx.out.result(
        {**found, "changed": changed},
        f"{f'started {vm.name}' if changed else f'{vm.name} runs already'}: "
        f"{vm.spec.machine}, {vm.spec.accel}, {size(vm.spec.memory)}, "
        f"{number(vm.spec.vcpus, 'gvCPU')}, {_hvcpus(vm.spec, found)}",
    )
    return 0


def _as_wanted(
    args: argparse.Namespace, ctx: Context, wanted: VmSpec, error: lifecycle.RunsAlready
) -> dict[str, Any]:
    """The status of a VM that runs already, as FILE asks for it.

    Raises the error when it is another one, or does not run as it should.
    """
    name = wanted.name
    accel = choose.wanted(args.accel, wanted.accel, ctx.settings.accel)
    other = same.differences(wanted, error.vm.spec, accel)
    if other:
        error.cause = f"it was started from a definition with another {', '.join(other)}"
        error.hint = (
            f"cpcctl vm status {name}: what runs here\n"
            f"give the VM of {args.file} another name, if that is to stay"
        )
        raise error
    found, trouble = lifecycle.look(ctx.settings, name)
    if trouble is not None:
        raise trouble
    if found["state"] != "running":
        error.cause, error.hint = hints.run_state(found["state"], name)
        raise error
    usable = sum(hvcpu["state"] in ("parked", "running") for hvcpu in found.get("hvcpus", ()))
    if command.has_hvcpus(error.vm.spec) and usable < wanted.hvcpus:
        error.cause = f"{usable} of its {wanted.hvcpus} hvCPUs can be called"
        error.hint = f"cpcctl hvcpu list {name}"
        raise error
    return found


def _hvcpus(vm: VmSpec, found: dict[str, Any]) -> str:
    if not command.has_hvcpus(vm):
        return f"no hvCPUs ({command.no_hvcpus(vm)})"
    trusted = size(found.get("trusted_bytes", 0))
    return f"{vm.hvcpus} of {number(vm.hvcpu_max, 'hvCPU')}, trusted memory {trusted}"


def _print_command(args: argparse.Namespace, ctx: Context, wanted: VmSpec) -> int:
    """What would be started, here or, of an SEV-SNP guest with kvm, where that works."""
    resolved = prepare.resolve(
        ctx.settings, wanted, args.accel, ctx.out.note, elsewhere=True
    )
    # The files may be on another host, but what an image depends on must be known.
    with open_files(resolved, lambda path, _: open_regular(path, False)) as files:
        named = {*files.boot, *(disk.path for disk in resolved.disks if disk.format == "raw")}
        unknown = [path for path in files.problems if path not in named]
        refuse(ctx.settings.host, resolved, files, unknown)
        argv = prepare.command_line(ctx.settings, resolved, files)
    if resolved.platform != snp.PLATFORM:
        ctx.out.result({"argv": argv}, shlex.join(argv))
        return 0
    digest = snp_checks.check(ctx.settings, resolved)
    kind = protection.kind(resolved.platform, resolved.accel)
    # A comment to a shell, so that the text can be run as it is.
    text = f"{shlex.join(argv)}\n# {kind}; launch digest {digest}"
    if resolved.kernel is not None:
        ctx.out.note("the launch digest does not cover kernel, initrd and append")
    ctx.out.result({"argv": argv, "platform": kind, "launch_digest": digest}, text)
    return 0


def stop_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of vm stop."""
    parser.add_argument("name", metavar="VM", help="name of the VM")
    parser.add_argument("--force", action="store_true", help="do not wait for the guest")
    parser.add_argument(
        "--unsettled", action="store_true",
        help="stop it although a migration of it is not settled: the guest may be lost",
    )
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=60.0,
        metavar="SECONDS",
        help="how long the guest may take to shut down (default: 60)",
    )


@interrupts.without()
def stop_run(args: argparse.Namespace, ctx: Context) -> int:
    """Stop a VM; one that does not run is fine."""
    from cpcctl.migrate.recovery import orphaned

    way = f"cpcctl vm stop --force --unsettled {args.name}, if the guest may be lost"
    ran = lifecycle.stop(
        ctx.settings,
        args.name,
        force=args.force,
        timeout=args.timeout,
        waiting=lambda: ctx.out.note(
            f"waiting for the guest to shut down (up to {args.timeout:g} s)"
        ),
        check=lambda: None
        if args.unsettled
        else orphaned.refuse_orphan(ctx.settings, args.name, way),
    )
    definition = Folders.of(ctx.settings).vm(args.name).definition
    if definition.exists():
        ctx.out.note(f"{definition} could not be removed; the VM is stopped")
    text = f"stopped {args.name}" if ran else f"{args.name} does not run"
    ctx.out.result({"name": args.name, "changed": ran}, text)
    return 0


def list_arguments(parser: argparse.ArgumentParser) -> None:
    """vm list has no arguments."""


def list_run(args: argparse.Namespace, ctx: Context) -> int:
    """List every VM of this host."""
    found = lifecycle.list_all(ctx.settings)
    rows = [
        (
            vm["name"],
            vm["state"],
            size(vm["memory"]) if "memory" in vm else "-",
            vm.get("gvcpus", "-"),
            f"{len(vm['hvcpus'])}/{vm['hvcpu_max']}" if "hvcpus" in vm else "-",
            vm.get("accel", "-"),
            vm.get("machine", "-"),
        )
        for vm in found
    ]
    text = table(("NAME", "STATE", "MEMORY", "GVCPUS", "HVCPUS", "ACCEL", "MACHINE"), rows)
    ctx.out.result(found, text)
    return 0


def status_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of vm status."""
    parser.add_argument("name", metavar="VM", help="name of the VM")


def status_run(args: argparse.Namespace, ctx: Context) -> int:
    """Show one VM; what is known also of one whose QEMU cannot be reached."""
    from cpcctl.migrate.recovery import orphaned

    found, trouble = lifecycle.look(ctx.settings, args.name)
    if "pid" in found and trouble is None:
        found |= _migratable(ctx, args.name)
    job = orphaned.orphan(ctx.settings, args.name)
    if job is not None:
        ctx.out.note(
            f"job {job.id} of this VM stopped in phase {job.phase} and is not settled\n"
            f"  try: cpcctl job resume {job.id}"
        )
    elif found["state"] == "frozen":
        _note_frozen(ctx, args.name)
    damaged = orphaned.unreadable(ctx.settings, args.name)
    if damaged is not None:
        ctx.out.note(f"{damaged.message}: whether this VM has moved is not known")
    if "platform" in found:
        ctx.out.note(protection.line(found["platform"], found["accel"], debug=_debug(found)))
    if not found.get("isolated", True):
        ctx.out.note(protection.LEAKING)
    ctx.out.result(found, _text(found))
    if trouble is not None:
        raise trouble
    return 0


def _note_frozen(ctx: Context, name: str) -> None:
    """What may be done with a guest that no unsettled job is of."""
    from cpcctl.migrate.recovery import orphaned, outcome

    job = orphaned.remains(ctx.settings, name)
    if job is not None:
        words = (job.error or {}).get("message", "")
        ctx.out.note(
            f"job {job.id} of this VM has ended: {words}\n"
            f"  try: {outcome.stop_frozen(name)}: {outcome.NEVER_RUNS}"
        )
        return
    ctx.out.note(
        "no job of this host has to be settled: a migration is at work, or the record of one is "
        f"lost\n  try: cpcctl job list --vm {name}"
    )


def _migratable(ctx: Context, name: str) -> dict[str, Any]:
    """Whether the VM could migrate now, as far as this host can tell; {} when it went away."""
    from cpcctl.migrate import running

    try:
        found = running.obstacles(lifecycle.attach(ctx.settings, name))
    except CpcError as error:
        if error.exit_code not in (ExitCode.UNREACHABLE, ExitCode.USAGE):
            raise
        return {}
    return {"migratable": not found, "obstacles": [check.document() for check in found]}


def _debug(found: dict[str, Any]) -> bool:
    return bool(int(found.get("policy", "0"), 16) & snp.POLICY_DEBUG)


def _text(found: dict[str, Any]) -> str:
    """The status for people."""
    shown = {name: _shown(name, value) for name, value in found.items() if name != "obstacles"}
    reasons = [entry["reason"] for entry in found.get("obstacles", ())]
    if reasons:
        shown["migratable"] = f"no ({'; '.join(reasons)})"
    return pairs((LABELS.get(name, name), text) for name, text in shown.items())


def _shown(name: str, value: Any) -> str:
    if name in ("memory", "trusted_bytes"):
        return size(value)
    if name == "hvcpus":
        return ", ".join(f"{entry['id']} {entry['state']}" for entry in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
