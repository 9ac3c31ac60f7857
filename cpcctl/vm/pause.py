# SPDX-License-Identifier: Apache-2.0
"""Stop a guest for a while, let it go on, and say why it stands still."""

from __future__ import annotations

from dataclasses import dataclass

from cpcctl.config.settings import Settings
from cpcctl.errors import CpcError, ExitCode
from cpcctl.host.qmp import Qmp
from cpcctl.host.state import Folders, VmLock
from cpcctl.ui import hints
from cpcctl.vm import lifecycle, live

# What lets a guest go on that stands in one of these states of QEMU.
COMMANDS = {
    "paused": "cont",
    "io-error": "cont",
    "watchdog": "cont",
    "debug": "cont",
    "suspended": "system_wakeup",
}
# A disk that is still full stops the guest again within this time.
AGAIN_SECONDS = 0.5


@dataclass(frozen=True)
class Change:
    """What was done. was: the state before; reason: why the guest stood still, None if it ran."""

    changed: bool
    was: str
    reason: str | None


def pause(settings: Settings, name: str, check: lifecycle.Check) -> Change:
    """Stop the guest's CPUs; its QEMU stays. One that stands still already is fine.

    check: called under the VM's lock; it raises what stands in the way

    :raise CpcError: (2) no such VM, (4) it does not run, (75) a job is at it,
    (3) it is frozen.
    """
    with VmLock.take(Folders.of(settings), name, "vm pause"):
        check()
        vm = lifecycle.attach(settings, name)
        with vm.session() as qmp:
            state = live.run_state(qmp, vm.spec)
            if state == "running":
                qmp.execute("stop")
                return Change(True, state, None)
            if state not in COMMANDS:
                raise _refused(vm.host, name, state, "paused")
            return Change(False, state, live.standstill(qmp, state, vm.spec))


def resume(settings: Settings, name: str, check: lifecycle.Check) -> Change:
    """Let a guest go on that was paused, or stopped by its disk or its watchdog.

    :raise CpcError: as pause(); (3) it stands still for a reason that this does not
    end; (1) it has stopped again at once.
    """
    with VmLock.take(Folders.of(settings), name, "vm resume"):
        check()
        vm = lifecycle.attach(settings, name)
        with vm.session() as qmp:
            state = live.run_state(qmp, vm.spec)
            if state == "running":
                return Change(False, state, None)
            if state not in COMMANDS:
                raise _refused(vm.host, name, state, "resumed")
            why = live.standstill(qmp, state, vm.spec)
            qmp.execute(COMMANDS[state])
            if state == "io-error" and _stops(qmp):
                raise CpcError(
                    f"VM {name} has stopped again",
                    host=vm.host,
                    cause=live.standstill(qmp, live.run_state(qmp, vm.spec), vm.spec),
                    hint=hints.run_state("io-error", name)[1],
                )
            return Change(True, state, why)


def _stops(qmp: Qmp) -> bool:
    try:
        qmp.wait_event(lambda event: bool(event["event"] == "STOP"), AGAIN_SECONDS)
    except TimeoutError:
        return False
    return True


def _refused(host: str, name: str, state: str, what: str) -> CpcError:
    why, fix = hints.run_state(state, name)
    return CpcError(
        f"VM {name} cannot be {what}", exit_code=ExitCode.REFUSED, host=host, cause=why, hint=fix
    )
