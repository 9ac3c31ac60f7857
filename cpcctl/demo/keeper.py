# SPDX-License-Identifier: Apache-2.0
"""First process of the private namespaces that hold two hosts and a client.

Started by hosts.py under ``unshare``. Lays out the network, says READY and
waits for its stdin to close. When it ends, for whatever reason, the kernel
ends every process in here and removes every namespace, tap and bridge.

    host-a [br0 .1, taps] --+
    host-b [br0 .2, taps] --+-- bridge "lan" (here)
    client [eth0 .20] ------+
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

SUBNET = "10.77.0"
HOSTS = {"host-a": 1, "host-b": 2}
CLIENT = ("client", 20)
TAPS = 4
MTU = 1500


def layout() -> list[list[str]]:
    """The commands that lay out the network, in order."""
    commands = [
        ["mount", "-t", "tmpfs", "tmpfs", "/run"],
        ["mkdir", "/run/netns"],
        ["ip", "link", "set", "lo", "up"],
        ["ip", "link", "add", "lan", "type", "bridge", "stp_state", "0", "forward_delay", "0"],
        ["ip", "link", "set", "lan", "up"],
    ]
    for name, number in [*HOSTS.items(), CLIENT]:
        inside = ["ip", "-n", name]
        commands += [
            ["ip", "netns", "add", name],
            ["ip", "link", "add", f"to-{name}", "type", "veth", "peer", "eth0", "netns", name],
            ["ip", "link", "set", f"to-{name}", "master", "lan", "up"],
            [*inside, "link", "set", "lo", "up"],
            [*inside, "link", "set", "eth0", "up"],
        ]
        port = "eth0"
        if name in HOSTS:
            port = "br0"
            commands += [
                [*inside, "link", "add", "br0", "type", "bridge",
                 "stp_state", "0", "forward_delay", "0"],
                [*inside, "link", "set", "eth0", "master", "br0"],
                [*inside, "link", "set", "br0", "up"],
            ]
            for tap in range(TAPS):
                commands += [
                    [*inside, "tuntap", "add", f"tap{tap}", "mode", "tap"],
                    [*inside, "link", "set", f"tap{tap}", "master", "br0", "up"],
                ]
        commands.append([*inside, "addr", "add", f"{SUBNET}.{number}/24", "dev", port])
    return commands


def main() -> int:
    """Lay out, then wait; anything wrong is said on stdout before READY."""
    for command in layout():
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            print(f"FAILED {' '.join(command)}: {done.stderr.strip()}", flush=True)
            return 1
    # As the first process of the namespace this one inherits every orphan;
    # left unreaped, a dead QEMU would look alive to those who ask by its id.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("READY", flush=True)
    while os.read(0, 4096):
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
