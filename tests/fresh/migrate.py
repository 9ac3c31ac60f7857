# SPDX-License-Identifier: Apache-2.0
"""Moves a small VM between two bare systems, which meet on loopback and share a folder."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, TextIO

from tests.fresh.root import SHARED, System

CACHE = "/root/.cache/cpc/current"
CPCCTL = f"{CACHE}/venv/bin/cpcctl"
NAME = "moving"
VERB_SECONDS = 300


class MoveError(Exception):
    """A command failed; the text is its words."""


class Host:
    """One system as a host. VMs end with the first process of the system they run in, so each
    system gets one shell that all its commands run under."""

    def __init__(self, system: System, log: TextIO) -> None:
        self.name = system.name
        self._log = log
        self._shell = system.popen(
            ["python3", "-u", "-m", "tests.fresh.shell"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
        )  # fmt: skip

    def ask(self, kind: str, *argv: str) -> Any:
        """Have the shell do something: run a command to its end, start one, wait for it."""
        assert self._shell.stdin is not None and self._shell.stdout is not None
        print(f"{self.name}: {kind} {' '.join(argv)}", file=self._log, flush=True)
        self._shell.stdin.write(json.dumps([kind, *argv]) + "\n")
        self._shell.stdin.flush()
        line = self._shell.stdout.readline()
        if not line:
            raise MoveError(f"{self.name}: the shell ended")
        code, out, err = json.loads(line)
        print(f"{out}{err}", file=self._log, flush=True)
        if code:
            raise MoveError(f"{self.name}: {' '.join(argv)}: exit code {code}: {err or out}")
        return out

    def close(self) -> None:
        """End the system and all that runs in it."""
        self._shell.kill()
        self._shell.communicate()


def definition(shared: Path, system: System) -> str:
    """Copy the guest of one system to where both see it; the VM's definition, as a file there."""
    guest = system.folder / CACHE.lstrip("/") / "guest"
    for name in ("vmlinuz", "tiny.cpio"):
        (shared / name).write_bytes((guest / name).read_bytes())
    document = {
        "name": NAME, "accel": "tcg", "memory": "256M", "vcpus": 2,
        "kernel": f"{SHARED}/vmlinuz", "initrd": f"{SHARED}/tiny.cpio",
        "append": "console=ttyS0 quiet",
    }  # fmt: skip
    (shared / "vm.yaml").write_text(json.dumps(document))
    return f"{SHARED}/vm.yaml"


def move(source: Host, destination: Host, port: int) -> None:
    """One migration; fails unless the VM runs there afterwards, and no longer here."""
    ticket = destination.ask(
        "start", CPCCTL, "receive", "--listen", f"127.0.0.1:{port}", "--allow-path", SHARED
    ).strip()
    source.ask("run", CPCCTL, "migrate", NAME, ticket)
    destination.ask("wait")
    if json.loads(destination.ask("run", CPCCTL, "vm", "list", "--format", "json"))[0][
        "state"
    ] != "running":
        raise MoveError(f"{NAME} does not run on {destination.name}")
    here = json.loads(source.ask("run", CPCCTL, "vm", "list", "--format", "json"))
    if any(vm["name"] == NAME and vm["state"] == "running" for vm in here):
        raise MoveError(f"{NAME} runs on {source.name} as well")


def there_and_back(first: System, second: System, log: TextIO) -> None:
    """Start a VM on the first, move it to the second and back. Raises MoveError."""
    hosts: list[Host] = []
    try:
        for system in (first, second):
            hosts.append(Host(system, log))
        hosts[0].ask("run", CPCCTL, "vm", "start", definition(first.shared, first))
        move(hosts[0], hosts[1], 4711)
        move(hosts[1], hosts[0], 4712)
    finally:
        for host in hosts:
            host.close()
