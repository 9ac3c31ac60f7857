# SPDX-License-Identifier: Apache-2.0
"""What an operator is told of a VM that runs, before it matters."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import Any

from cpcctl.config.settings import Settings
from cpcctl.vm import lifecycle, spec
from tests.onevm.test_vm import wait_for


def test_what_could_not_migrate_is_said_today(
    define: Any, cli: Any, place: Settings, public: Path
) -> None:
    """Of a device in the definition, and of CPUs, devices and images that QMP adds."""
    path = define(devices=["nvme,serial=x"])
    code, _, err = cli("vm", "start", str(path))
    assert code == 0, err
    assert "VM a cannot migrate as it is: device nvme: " in err
    assert re.search(r"^migratable: +no \(device nvme: ", cli("vm", "status", "a")[1], re.M)
    cli("vm", "stop", "a", "--force")

    disk = place.state_dir / "d.raw"
    disk.write_bytes(bytes(1 << 20))
    path = define(max_vcpus=3, max_memory="512M",
                  disks=[{"path": str(disk), "format": "raw", "cache": "writeback"}])
    assert "cannot migrate" not in cli("vm", "start", str(path))[2]
    assert json.loads(cli("vm", "status", "a", "--format", "json")[1])["obstacles"] == []
    assert re.search(r"^migratable: +yes$", cli("vm", "status", "a")[1], re.M)
    with lifecycle.attach(place, "a").qmp(job=True) as qmp:
        free = [e for e in qmp.execute("query-hotpluggable-cpus") if "qom-path" not in e]
        qmp.execute_raw("device_add", {"driver": free[0]["type"], "id": "c2", **free[0]["props"]})
        qmp.execute_raw("object-add", {"qom-type": "memory-backend-memfd", "id": "m",
                                       "size": 128 << 20, "share": True})
        qmp.execute_raw("device_add", {"driver": "pc-dimm", "id": "d", "memdev": "m"})
        qmp.execute_raw("blockdev-snapshot-sync", {
            "node-name": "disk0", "snapshot-file": str(public / "over"),
            "snapshot-node-name": "over", "format": "qcow2",
        })
    found = json.loads(cli("vm", "status", "a", "--format", "json")[1])
    assert found["migratable"] is False
    assert {entry["name"]: entry["reason"] for entry in found["obstacles"]} == {
        "gvcpus": "3 gvCPUs run, the definition says 2",
        "memory-devices": "memory was plugged: d (128 MiB)",
        "images": f"disk {disk} is on {public / 'over'} now (block node over)",
    }


def test_a_second_console_says_that_another_is_attached(
    define: Any, cli: Any, place: Settings
) -> None:
    vm = lifecycle.start(place, spec.load(define()))
    with socket.socket(socket.AF_UNIX) as first, vm.qmp() as qmp:
        first.connect(str(vm.paths.console))

        def attached() -> bool:
            return any(entry["label"] == "console" and entry["filename"].startswith("unix:")
                       for entry in qmp.execute("query-chardev"))

        wait_for(attached, 10, "QEMU sees the first console")
        qmp.close()
        code, _, err = cli("vm", "console", "a")
    assert (code, err.splitlines()[0]) == (
        75, "error: the console of VM a is in use"
    )
