# SPDX-License-Identifier: Apache-2.0
"""An SEV-SNP guest that OVMF starts from its disk, and eight vCPUs."""

from __future__ import annotations

import hashlib
from typing import Any

from cpcctl.config.settings import Settings
from cpcctl.demo.console import Console
from cpcctl.vm import lifecycle
from tests.one_host import Cli
from tests.patience import patient
from tests.snp import disk_image
from tests.snp.boot import BOOT_SECONDS
from tests.snp.conftest import Define

ACTIVE = "Memory Encryption Features active: AMD SEV SEV-ES SEV-SNP"


def test_from_a_disk(built: Any, place: Settings, define: Define, cli: Cli) -> None:
    """No kernel in the definition: the firmware finds it, and reads it as private memory
    allows, through its own bounce buffers; then the kernel reads the same disk."""
    image = disk_image.disk(built.vmlinuz, built.tiny_initrd)
    disks = [{"path": str(image), "format": "raw", "cache": "writeback", "readonly": True}]
    path = define(kernel=None, initrd=None, append=None, memory="512M", vcpus=8, disks=disks)
    code, _, err = cli("vm", "start", str(path))
    assert code == 0, err
    vm = lifecycle.attach(place, "a")
    with Console(vm.paths.console) as console:
        console.wait_ready(vm.paths.console_log, patient(BOOT_SECONDS))
        assert ACTIVE in console.run("dmesg | grep Encryption")
        assert console.run("grep -c ^processor /proc/cpuinfo").strip() == "8"
        found = console.run("md5sum /dev/vda", patient(60.0)).split()[0]
    assert found == hashlib.md5(image.read_bytes()).hexdigest()
