# SPDX-License-Identifier: Apache-2.0
"""Two hosts in namespaces: connected, apart, and gone afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cpcctl.demo.guard import marked
from cpcctl.demo.hosts import World, kill, wait_until
from tests.patience import patient


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


@pytest.mark.parametrize("place", ["World()", "LocalPlace(Path('/'), {})"])
def test_everything_ends_with_its_owner(place: str) -> None:
    """SIGKILL of the owner: no clean-up of its own runs. VMs outlive what started them."""
    code = (
        "import sys,time\nfrom pathlib import Path\nfrom cpcctl.demo.hosts import World\n"
        f"from cpcctl.demo.local import LocalPlace\nplace = {place}\n"
        "place.a.popen(['setsid', '--fork', 'sleep', '1000']).wait()\n"
        "print(place.folder, flush=True)\ntime.sleep(1000)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        folder = owner.stdout.readline().strip()
        mark = f"CPC_PLACE={folder}"
        assert Path(folder).is_dir() and len(marked(mark)) == 1
        owner.kill()
    wait_until("its processes end", lambda: not marked(mark), patient(10))
    wait_until("its files go", lambda: not Path(folder).exists(), patient(10))


def test_output_and_exit_status_come_through(world: World) -> None:
    done = world.a.run(["sh", "-c", "cat; echo words >&2; exit 7"], input_text="in")
    assert (done.returncode, done.stdout, done.stderr) == (7, "in", "words\n")
    with pytest.raises(subprocess.TimeoutExpired):
        world.a.run(["sleep", "60"], timeout=0.5)
