# SPDX-License-Identifier: Apache-2.0
"""Which user a QEMU becomes, its limits, and the sockets that it inherits."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from cpcctl.errors import CpcError
from cpcctl.qemu import sandbox
from cpcctl.qemu.sandbox import FIRST, LAST, Sandbox
from cpcctl.qemu.sockets import listening

ALL = set(range(FIRST, LAST + 1))


def nobody(_user: int) -> bool:
    return False


def test_a_vm_gets_the_same_user_again_if_it_is_free() -> None:
    user = sandbox.choose("a", set(), nobody)
    assert user in ALL
    assert sandbox.choose("a", set(), nobody) == user
    other = sandbox.choose("a", {user}, nobody)
    assert other in ALL - {user}


def test_users_with_an_account_are_left_alone() -> None:
    user = sandbox.choose("a", set(), nobody)
    assert sandbox.choose("a", set(), lambda number: number == user) != user


def test_the_last_user_is_found_and_then_none() -> None:
    assert sandbox.choose("a", ALL - {LAST}, nobody) == LAST
    with pytest.raises(CpcError, match="no user is left") as caught:
        sandbox.choose("a", ALL, nobody)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("text", "all_there"),
    [
        ("         0          0 4294967295\n", True),
        ("0 100000 65536\n", True),
        ("0 1000 1\n", False),
        ("0 1000 1\n1 100000 59999\n", True),
        ("0 1000 1\n1 100000 59998\n", False),
        ("", False),
    ],
)
def test_namespaces_without_our_users(text: str, all_there: bool) -> None:
    assert sandbox.covers(text) is all_there


@pytest.mark.parametrize(
    ("caps", "may"),
    [("000001ffffffffff", True), ("00000000000000c0", True), ("0000000000000040", False),
     ("0000000000000000", False)],
)  # fmt: skip
def test_who_may_become_another_user(caps: str, may: bool) -> None:
    assert sandbox.may_change(f"Name:\tx\nCapPrm:\tffff\nCapEff:\t{caps}\n") is may


def test_options() -> None:
    kept = Sandbox(None).argv
    assert kept == [
        "-sandbox", "on,obsolete=deny,spawn=deny,resourcecontrol=deny,elevateprivileges=deny",
    ]  # fmt: skip
    assert Sandbox(57_000).argv == [
        "-sandbox", "on,obsolete=deny,spawn=deny,resourcecontrol=deny",
        "-run-with", "user=57000:57000",
    ]  # fmt: skip


def test_limits() -> None:
    script = sandbox.limits() + "ulimit -H -c; ulimit -S -n; ulimit -H -n"
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=True)
    core, soft, hard = (int(word) for word in done.stdout.split())
    assert (core, soft) == (0, hard)
    assert hard <= sandbox.FILES_MAX


def test_what_is_left_of_the_environment() -> None:
    ours = {"PATH": "/home/me", "SSH_AUTH_SOCK": "/s", "CPC_MARK": "1"}
    assert sandbox.environment(ours) == {"PATH": sandbox.PATH, "CPC_MARK": "1"}


def test_the_users_of_processes_are_seen() -> None:
    assert os.getuid() in set(sandbox._users())


def test_a_socket_to_inherit(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(fileno=listening(path)) as server:
        known = server.getsockname()
        assert not os.path.exists(known)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            here, _ = server.accept()
            here.sendall(b"x")
            assert client.recv(1) == b"x"
            here.close()
    assert path.is_socket()


def test_a_socket_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        listening(tmp_path / "none" / "s")
