# SPDX-License-Identifier: Apache-2.0
"""What a VM that runs says of itself, by QMP; what is left of one that ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cpcctl.host.files import read_end
from cpcctl.host.qmp import Qmp
from cpcctl.ui import hints
from cpcctl.vm import command as commands
from cpcctl.vm import ending
from cpcctl.vm.ending import Ending
from cpcctl.vm.spec import VmSpec

LOG_MAX = 64 << 10


def look(qmp: Qmp, spec: VmSpec) -> dict[str, Any]:
    """For lifecycle.status(). Raises CpcError when QEMU does not answer."""
    run_state = qmp.execute("query-status")["status"]
    if not commands.has_hvcpus(spec):
        found = {"state": run_state, "gvcpus": len(qmp.execute("query-cpus-fast"))}
        return found | _reason(qmp, run_state, spec) | _confidential(qmp, spec)
    info = qmp.require_cpc()
    state = "frozen" if info["frozen"] else run_state
    return {
        "state": state,
        **_reason(qmp, state, spec),
        "accel": info["accelerator"],
        "incoming": info["incoming"],
        "isolated": info["isolated"],
        "gvcpus": info["gvcpus"],
        "hvcpu_max": info["hvcpu-max"],
        "hvcpus": [
            {"id": entry["id"], "state": entry["state"], "reason": entry.get("reason")}
            for entry in info["hvcpus"]
            if entry["state"] != "inactive"
        ],
        "trusted_bytes": info["trusted-bytes"],
        "firmware_version": info["firmware-version"],
        **_confidential(qmp, spec),
    }


def run_state(qmp: Qmp, spec: VmSpec) -> str:
    """QEMU's run state, or "frozen". Raises CpcError when it does not answer."""
    if commands.has_hvcpus(spec) and qmp.require_cpc()["frozen"]:
        return "frozen"
    return str(qmp.execute("query-status")["status"])


def _reason(qmp: Qmp, state: str, spec: VmSpec) -> dict[str, Any]:
    return {} if state == "running" else {"reason": standstill(qmp, state, spec)}


def standstill(qmp: Qmp, state: str, spec: VmSpec) -> str:
    """Why a guest in a state other than running stands still."""
    words = hints.run_state(state, spec.name)[0]
    if state != "io-error":
        return words
    return "; ".join(_disks(qmp, spec)) or words


def _disks(qmp: Qmp, spec: VmSpec) -> list[str]:
    """Which disks have failed, and of what."""
    found = []
    for entry in qmp.execute("query-block"):
        status = entry.get("io-status", "ok")
        if status == "ok":
            continue
        number = commands.disk_number(entry.get("qdev", ""))
        name = spec.disks[number].path if number is not None else entry.get("qdev", "?")
        why = "has no space left" if status == "nospace" else "reports an error"
        found.append(f"the guest was stopped by its disk: {name} {why}")
    return found


def _confidential(qmp: Qmp, spec: VmSpec) -> dict[str, Any]:
    """The digest that the emulated processor took; a real one tells it to the guest only."""
    if spec.platform == "plain" or spec.accel != "tcg":
        return {}
    return {"launch_digest": qmp.execute("query-sev-emulation")["launch-digest"]}


def ended(log: Path) -> Ending:
    """Why a VM that does not run ended, from the end of its QEMU's log."""
    return ending.read(_end(log, LOG_MAX) or "")


def log_tail(log: Path, limit: int = 4096) -> str | None:
    """QEMU's last words, of so many bytes; warnings only where there is nothing else."""
    text = _end(log, limit)
    if text is None:
        return None
    text = ending.without_ours(text).strip()
    errors = [line for line in text.splitlines() if ": warning: " not in line]
    return "\n".join(errors) or text or None


def _end(log: Path, limit: int) -> str | None:
    """The last so many bytes of a log; None when it cannot be read."""
    try:
        return read_end(log, limit).decode("utf-8", "replace")
    except OSError:
        return None
