# SPDX-License-Identifier: Apache-2.0
"""The guest that is migrated: its definition, its start, its move."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cpcctl.accel import memory
from cpcctl.config.patience import patient
from cpcctl.config.settings import Settings
from cpcctl.demo.console import Console
from cpcctl.demo.hosts import GUEST_ADDRESS, VERB_SECONDS, Host, Place, kill
from cpcctl.demo.plain import PlainGuest
from cpcctl.errors import CpcError, ExitCode
from cpcctl.host import find
from cpcctl.snp import definition as snp

READY_SECONDS = patient(600.0)
MIGRATE_SECONDS = patient(600.0)
END_SECONDS = patient(60.0)
# Of a guest in QEMU's user-mode network.
USER_ADDRESS = "10.0.2.15"


@dataclass(frozen=True)
class Parts:
    """Where the built things are on this machine, and what its VMs run with.

    accel:   tcg or kvm
    platform: of the guest that is migrated
    ovmf:    the firmware of SEV-SNP guests, where the platform needs one
    verdict: file that says whether KVM works, so that no host here finds out again
    """

    qemu: Path
    qemu_data: Path
    kernel: Path
    tiny: Path
    full: Path
    accel: str = "tcg"
    platform: str = "plain"
    ovmf: Path | None = None
    verdict: Path | None = None

    @classmethod
    def of(cls, settings: Settings) -> Parts:
        """From the settings, else from the cache. Raises CpcError (3) if one is missing."""
        current = settings.cache_dir / "current"
        found = cls(
            qemu=settings.qemu or current / "qemu/bin/qemu-system-x86_64",
            qemu_data=settings.qemu_data or current / "qemu/share/qemu",
            kernel=current / "guest/vmlinuz",
            tiny=current / "guest/tiny.cpio",
            full=current / "guest/guest.cpio",
        )
        for path in (found.qemu, found.qemu_data, found.kernel, found.tiny, found.full):
            if not path.exists():
                raise CpcError(
                    f"{path} is not there", exit_code=ExitCode.REFUSED, hint="make setup"
                )
        return found

    def choose(self, settings: Settings, flag: str | None, say: Callable[[str], None]) -> Parts:
        """The same with the accelerator that a flag and the settings lead to.

        say: is told when it was left open. Raises CpcError (3) for kvm that does not work.
        """
        choice = memory.take(settings, flag)
        if choice.why is not None:
            say(choice.why)
        return replace(self, accel=choice.accel, verdict=memory.file(settings))

    def confidential(self, settings: Settings, flag: str | None) -> Parts:
        """The same with an emulated SEV-SNP guest. Raises CpcError: 2 for kvm, since
        such guests have no hvCPUs with it yet, 3 where OVMF is missing."""
        if (flag or settings.accel) == "kvm":
            raise CpcError(
                "with KVM an SEV-SNP guest has no hvCPUs yet, so it cannot be migrated",
                exit_code=ExitCode.USAGE,
                hint="cpcctl demo --platform sev-snp --accel tcg, or --platform plain",
            )
        return replace(
            self, accel="tcg", platform=snp.PLATFORM, ovmf=find.ovmf_image(settings),
            verdict=memory.file(settings),
        )  # fmt: skip

    def environment(self, firmware: Path | None) -> dict[str, str]:
        """The same choice for every cpcctl that the demo runs."""
        chosen = {"CPCCTL_QEMU": str(self.qemu), "CPCCTL_QEMU_DATA": str(self.qemu_data)}
        if self.verdict is not None:
            chosen["CPCCTL_KVM_VERDICT"] = str(self.verdict)
        return {**chosen, **({"CPCCTL_FIRMWARE": str(firmware)} if firmware else {})}

    def plain(
        self, append: str, memory_mib: int, tap: str | None, full: bool = False
    ) -> PlainGuest:
        """The same guest for a QEMU without the cpc device."""
        initrd = self.full if full else self.tiny
        return PlainGuest(
            self.qemu, self.qemu_data, self.kernel, initrd, append, memory_mib, tap=tap,
            accel=self.accel,
        )


def cmdline(jobs: str, address: str = GUEST_ADDRESS) -> str:
    """The kernel's command line: console, address, and the jobs of cpc-job."""
    # On a busy machine an emulated timer can miss the test that the kernel panics after.
    words = f"console=ttyS0 quiet no_timer_check cpc.ip={address}/24"
    return f"{words} cpc.job={jobs}" if jobs else words


def definition(
    name: str, parts: Parts, append: str, memory_mib: int, hvcpus: int, tap: str | None
) -> dict[str, Any]:
    """A VM definition as `vm start` reads it. Without a tap: a user-mode network."""
    return {
        "name": name,
        "accel": parts.accel,
        "platform": parts.platform,
        "memory": f"{memory_mib}M",
        "vcpus": 1,
        "hvcpus": hvcpus,
        "hvcpu_max": max(hvcpus, 4),
        "kernel": str(parts.kernel),
        "initrd": str(parts.full),
        "append": append,
        "nics": [{"mode": "tap", "tap": tap} if tap else {"mode": "user"}],
    }


def call(host: Host, *argv: str, timeout: float = VERB_SECONDS, bar: bool = False) -> Any:
    """Run cpcctl there for its JSON. Raises CpcError with its words and exit code.

    bar: let it draw its progress on this terminal, where its words appear as well.
    """
    done = host.cpcctl(
        *argv, "--format", "json", "--progress", "bar" if bar else "none", timeout=timeout,
        stderr=None if bar else subprocess.PIPE,
    )  # fmt: skip
    if done.returncode != 0:
        code = done.returncode
        known = code in list(ExitCode)
        raise CpcError(
            f"cpcctl {' '.join(argv[:2])} failed with exit code {code}",
            exit_code=ExitCode(code) if known else ExitCode.FAILED,
            host=host.name,
            cause=(done.stderr or "").strip() or done.stdout.strip(),
        )
    return json.loads(done.stdout)


def facts(printed: dict[str, Any]) -> dict[str, Any]:
    """What `cpcctl migrate` printed, a job with a result in it, as one flat object."""
    result = printed.get("result") or {}
    return {**printed, **result} if isinstance(result, dict) else dict(printed)


class Guest:
    """The VM under `cpcctl`, on one host at a time."""

    def __init__(self, world: Place, spec: dict[str, Any]) -> None:
        self.world = world
        self.name = str(spec["name"])
        # The same networks on either host.
        self.cards = [
            f"net{i}={nic.get('tap', 'user')}" for i, nic in enumerate(spec.get("nics", ()))
        ]
        self.file = world.folder / f"{self.name}.yaml"
        # JSON is YAML.
        self.file.write_text(json.dumps(spec))

    def start(self, host: Host) -> dict[str, Any]:
        """Start it; returns vm status. Raises CpcError."""
        status: dict[str, Any] = call(host, "vm", "start", str(self.file))
        return status

    def ring(self, host: Host) -> Path:
        """Its ring file on a host."""
        return host.folder / "run" / "vms" / self.name / "ring"

    def console(self, host: Host) -> Console:
        """A connection to its console."""
        return Console(host.folder / "run" / "vms" / self.name / "console.sock")

    def wait_ready(
        self,
        host: Host,
        seconds: float = READY_SECONDS,
        seen: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Until all its jobs have started. seen: is given its console log on the way."""
        with self.console(host) as console:
            log = host.folder / "state" / "vms" / self.name / "console.log"
            console.wait_ready(log, seconds, seen)

    def migrate(
        self,
        source: Host,
        destination: Host,
        *options: str,
        via: Callable[[str], str] = lambda ticket: ticket,
        bar: bool = False,
    ) -> dict[str, Any]:
        """Move it; what `cpcctl migrate` printed, see facts(). Raises CpcError.

        via: may change the ticket, so that the way leads through a relay. bar: as for call().
        """
        receiver = Receiver(destination, self.cards)
        try:
            with tempfile.NamedTemporaryFile("w", dir=self.world.folder) as ticket:
                ticket.write(via(receiver.ticket))
                ticket.flush()
                result: dict[str, Any] = call(
                    source, "migrate", self.name, "--ticket-file", ticket.name, *options,
                    timeout=MIGRATE_SECONDS,
                )
            receiver.finish()
        finally:
            receiver.close()
        return facts(result)


class Receiver:
    """`cpcctl receive` on the destination."""

    def __init__(self, host: Host, cards: Sequence[str]) -> None:
        """cards: what --nic names."""
        self._host = host
        self._process = host.popen(
            [sys.executable, "-m", "cpcctl", "receive", "--listen", f"{host.address}:0",
             "--progress", "none", *(f"--nic={card}" for card in cards)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line.startswith("cpc1:"):
            _, words = self._process.communicate()
            raise CpcError("cpcctl receive failed", host=host.name, cause=f"{line}\n{words}")
        self.ticket = line

    def finish(self) -> None:
        """Wait for its end after a migration. Raises CpcError with its words."""
        _, words = self._process.communicate(timeout=END_SECONDS)
        if self._process.returncode != 0:
            raise CpcError("cpcctl receive failed", host=self._host.name, cause=words.strip())

    def close(self) -> None:
        """End it if it still waits."""
        if self._process.poll() is None:
            kill(self._process, 15)
            self._process.communicate()


def hvcpu_count() -> int:
    """As many hvCPUs as there are cores, up to four."""
    return max(1, min(4, os.cpu_count() or 1))
