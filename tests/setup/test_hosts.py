# SPDX-License-Identifier: Apache-2.0
"""Two hosts in namespaces: connected, apart, and gone afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from cpcctl.demo.hosts import World, kill, wait_until


def test_hosts_reach_each_other_until_cut(world: World) -> None:
    with world.b.popen(
        [sys.executable, "-c", "import socket as s\nl=s.create_server(('10.77.0.2',7))\n"
         "print('up',flush=True)\nwhile 1: l.accept()[0].sendall(b'hi')"],
        stdout=subprocess.PIPE,
    ) as server:
        assert server.stdout is not None and server.stdout.readline() == "up\n"
        ask = [sys.executable, "-c",
               "import socket as s\nprint(s.create_connection(('10.77.0.2',7),1).recv(2))"]
        assert world.a.run(ask).stdout == "b'hi'\n"
        world.cut("host-b")
        assert world.a.run(ask).returncode != 0
        world.cut("host-b", broken=False)
        wait_until("the cable is in again", lambda: world.a.run(ask).returncode == 0, 20)
        kill(server, signal.SIGKILL)


def test_a_host_does_not_see_this_machines_network(world: World) -> None:
    assert "tap0" in world.a.run(["ip", "-br", "link"]).stdout
    assert "tap0" not in os.listdir("/sys/class/net")


def test_everything_ends_with_its_owner() -> None:
    """SIGKILL of the owner: no clean-up of ours runs, the kernel does it."""
    code = (
        "import sys,time\nfrom cpcctl.demo.hosts import World\nw=World()\n"
        "w.a.popen(['sleep','1000'])\n"
        "print(w.folder, w._target, flush=True)\ntime.sleep(1000)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        folder, keeper = owner.stdout.readline().split()
        assert os.path.exists(f"/proc/{keeper}")
        owner.kill()
    wait_until("the keeper ends", lambda: not os.path.exists(f"/proc/{keeper}"), 10)
    subprocess.run(["rm", "-rf", folder], check=True)


def test_output_and_exit_status_come_through(world: World) -> None:
    done = world.a.run(["sh", "-c", "cat; echo words >&2; exit 7"], input_text="in")
    assert (done.returncode, done.stdout, done.stderr) == (7, "in", "words\n")
    with pytest.raises(subprocess.TimeoutExpired):
        world.a.run(["sleep", "60"], timeout=0.5)
