# SPDX-License-Identifier: Apache-2.0
"""The table of verbs: help, completion and the man page derive from it.

A verb's module is imported only when that verb is used.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Verb:
    """One verb: `arguments(parser)` declares, `run(args, ctx) -> int` does."""

    path: str
    help: str
    module: str
    arguments: str = "add_arguments"
    run: str = "run"

    @property
    def acts(self) -> bool:
        """Its exit code says what became of a VM, also when nobody takes its result."""
        return self.path in ACTING


ACTING = (
    "vm start", "vm stop", "vm pause", "vm resume", "hvcpu add", "hvcpu remove", "migrate",
    "receive", "job wait", "job cancel", "job resume",
)
GROUPS: dict[str, str] = {
    "vm": "start, stop, pause and look at VMs of this host",
    "hvcpu": "add, remove and ping the hvCPUs of a VM",
    "job": "look at, wait for and cancel jobs",
}


def _grouped(group: str, name: str, text: str, module: str) -> Verb:
    return Verb(f"{group} {name}", text, module, f"{name}_arguments", f"{name}_run")


VERBS: tuple[Verb, ...] = (
    Verb("doctor", "show what this machine can do, and how to fix the rest", "cpcctl.doctor.cli"),
    _grouped("vm", "start", "start a VM from a YAML file", "cpcctl.cli.vm"),
    _grouped("vm", "stop", "stop a VM", "cpcctl.cli.vm"),
    _grouped("vm", "pause", "pause a VM's guest; its memory stays", "cpcctl.cli.vm_pause"),
    _grouped("vm", "resume", "resume a guest that is paused or stopped", "cpcctl.cli.vm_pause"),
    _grouped("vm", "list", "list the VMs of this host", "cpcctl.cli.vm"),
    _grouped("vm", "status", "show one VM", "cpcctl.cli.vm"),
    _grouped("vm", "console", "connect to a VM's serial console", "cpcctl.cli.vm_console"),
    _grouped("hvcpu", "add", "activate hvCPUs of a running VM", "cpcctl.cli.hvcpu"),
    _grouped("hvcpu", "remove", "deactivate an hvCPU", "cpcctl.cli.hvcpu"),
    _grouped("hvcpu", "list", "list the hvCPUs of a VM", "cpcctl.cli.hvcpu"),
    _grouped("hvcpu", "ping", "ask the firmware on an hvCPU to answer", "cpcctl.cli.hvcpu"),
    Verb("migrate", "move a running VM to another host", "cpcctl.migrate.cli"),
    Verb("receive", "wait for a VM to arrive and print a ticket", "cpcctl.migrate.cli_receive"),
    _grouped("job", "list", "list jobs", "cpcctl.cli.job"),
    _grouped("job", "show", "show one job", "cpcctl.cli.job"),
    Verb("job wait", "wait until a job ends", "cpcctl.migrate.cli_wait"),
    Verb("job cancel", "cancel a job and wait until it is cancelled", "cpcctl.migrate.cli_cancel"),
    Verb("job resume", "finish or undo a job that lost its controller",
         "cpcctl.migrate.cli_resume"),
    Verb("demo", "migrate a live VM between two hosts on this machine", "cpcctl.demo.cli"),
    Verb("bench", "compare with a plain QEMU migration", "cpcctl.bench.cli"),
    Verb("version", "show the versions of every part", "cpcctl.cli.version"),
    Verb("completion", "print a completion script for a shell", "cpcctl.cli.completion"),
)
