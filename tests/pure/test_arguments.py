# SPDX-License-Identifier: Apache-2.0
"""Each option is checked as what it is, before anything else is looked at."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cpcctl import __main__ as entry
from cpcctl.cli import arguments
from cpcctl.errors import CpcError
from cpcctl.link import tls
from cpcctl.link.listener import Listener


@pytest.mark.parametrize(
    ("text", "found"),
    [("::1", "::1"), ("[::1]", "::1"), ("2001:db8::0:1", "2001:db8::1"), ("192.0.2.2",) * 2,
     ("host-b",) * 2, ("b.example",) * 2, ("b_1",) * 2],
)
def test_hosts(text: str, found: str) -> None:
    assert arguments.host(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [("0.0.0.0:0", ("0.0.0.0", 0)), ("[::1]:0", ("::1", 0)), ("[::]:5000", ("::", 5000)),
     ("host-b:65535", ("host-b", 65535))],
)
def test_addresses_to_listen_on(text: str, found: tuple[str, int]) -> None:
    assert arguments.listen(text) == found


@pytest.mark.parametrize("text", ["0.5", "1", "1e3", "10", "+2", "1000000"])
def test_seconds(text: str) -> None:
    assert arguments.seconds(text) == float(text)
    assert arguments.waiting(text) == float(text)


RECEIVE = ("receive",)
MIGRATE = ("migrate", "a", "-")
NOT_SECONDS = "is not a number of seconds above 0, at most 1000000"
WRONG: list[tuple[tuple[str, ...], str, str, str]] = [
    (RECEIVE, "--address", "host:5000", "'host:5000' has a port, which the option --listen sets"),
    (RECEIVE, "--address", "192.0.2.2:80", "name 192.0.2.2 alone"),
    (RECEIVE, "--address", "[::1]:5000", "name [::1] alone"),
    (RECEIVE, "--address", "::1::", "neither a host name nor an address"),
    (RECEIVE, "--address", "[host]", "neither a host name nor an address"),
    (RECEIVE, "--address", "fe80::1%eth0", "has a zone"),
    (RECEIVE, "--address", "0.0.0.0", "means every address of this host"),
    (RECEIVE, "--address", "[::]", "means every address of this host"),
    (RECEIVE, "--address", "1.2.3", "is not an IPv4 address"),
    (RECEIVE, "--address", "256.1.1.1", "is not an IPv4 address"),
    (RECEIVE, "--address", "", "neither a host name nor an address"),
    (RECEIVE, "--address", "a b", "neither a host name nor an address"),
    (RECEIVE, "--address", "-x", "neither a host name nor an address"),
    (RECEIVE, "--listen", "::1:0", "an IPv6 address is in brackets: [::1]:0"),
    (RECEIVE, "--listen", "::1", "an IPv6 address is in brackets"),
    (RECEIVE, "--listen", "host-b", "'host-b' has no port; port 0 is any free one"),
    (RECEIVE, "--listen", "host-b:", "is not HOST:PORT"),
    (RECEIVE, "--listen", ":5000", "is not HOST:PORT"),
    (RECEIVE, "--listen", "host-b:x", "is not HOST:PORT"),
    (RECEIVE, "--listen", "host-b:-1", "is not HOST:PORT"),
    (RECEIVE, "--listen", "host-b:70000", "port 70000 does not exist"),
    (RECEIVE, "--listen", "[host-b]:1", "neither a host name nor an address"),
    (RECEIVE, "--listen", "host-b:\u0663", "is not HOST:PORT"),
    (RECEIVE, "--allow-path", "/nonexistent", "there is no folder /nonexistent"),
    (RECEIVE, "--allow-path", "/dev/null", "/dev/null is not a folder"),
    (RECEIVE, "--allow-path", "srv", "is not an absolute path"),
    (RECEIVE, "--allow-path", "", "is not an absolute path"),
    (RECEIVE, "--allow-path", "/a:/b", "has a character"),
    (RECEIVE, "--nic", "=x", "names no network card before '='"),
    (RECEIVE, "--nic", "net0", "is not NAME=TAP, such as net0=tap0"),
    (RECEIVE, "--nic", "net0=", "'' cannot be the name of a tap"),
    (RECEIVE, "--nic", "net0=a/b", "'a/b' cannot be the name of a tap"),
    (RECEIVE, "--nic", "net0=sixteen-letters-", "cannot be the name of a tap"),
    (RECEIVE, "--nic", "net 0=tap0", "names no network card"),
    (RECEIVE, "--wait", "inf", "leave it out for no limit"),
    (RECEIVE, "--wait", "forever", "leave it out for no limit"),
    (RECEIVE, "--qemu", "", "'' is not a path"),
    (RECEIVE, "--state-dir", "", "'' is not a path"),
    (RECEIVE, "--events-fd", "999999", "no file descriptor 999999 is open"),
    (RECEIVE, "--events-fd", "1", "is not a whole number from 3 to"),
    (MIGRATE, "--bandwidth", "inf", "is not a number of MiB per second above 0"),
    (MIGRATE, "--bandwidth", "10M", "is not a number of MiB per second above 0"),
    (MIGRATE, "--max-downtime", "1e99", "is not a number of milliseconds above 0"),
    (MIGRATE, "--parallel", "1.5", "is not a whole number from 0 to 16"),
    (MIGRATE, "--parallel", "17", "is not a whole number from 0 to 16"),
    (MIGRATE, "--parallel", "9" * 5000, "is not a whole number from 0 to 16"),
    (("hvcpu", "add", "a"), "--count", "0", "is not a whole number from 1 to 16"),
    (("hvcpu", "add", "a"), "--count", "1_0", "is not a whole number from 1 to 16"),
    (("bench",), "--repeat", "-1", "is not a whole number from 1 to 1000"),
    *(
        (verb, option, value, NOT_SECONDS)
        for verb, option in (
            (RECEIVE, "--grace"), (RECEIVE, "--peer-timeout"), (RECEIVE, "--wait"),
            (MIGRATE, "--timeout"), (MIGRATE, "--peer-timeout"), (("vm", "stop", "a"), "--timeout"),
        )
        for value in ("0", "-1", "nan", "1e400", "1e308", "1000001", "", " 1", "1_0", "x", "0x1",
                      "\u0661")
    ),
]


@pytest.mark.parametrize(("verb", "option", "value", "words"), WRONG)
def test_an_option_that_is_wrong(
    verb: tuple[str, ...], option: str, value: str, words: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cpcctl.config.load.load", lambda _: pytest.fail("it was accepted"))
    assert entry.main([*verb, f"{option}={value}"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"error: argument {option}: "), shown.err
    assert words in shown.err
    path = " ".join(word for word in verb if word not in ("a", "-"))
    assert f"  try: cpcctl {path} --help\n" in shown.err


def test_a_card_that_is_named_twice(
    capsys: pytest.CaptureFixture[str], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CPCCTL_STATE_DIR", str(tmp_path))
    assert entry.main(["receive", "--nic", "net0=a", "--nic", "net0=b"]) == 2
    assert "--nic names one network card twice" in capsys.readouterr().err


@pytest.mark.parametrize("read", [arguments.host, arguments.listen, arguments.card,
                                  arguments.folder, arguments.path, arguments.seconds,
                                  arguments.whole(0, 9)])
@pytest.mark.parametrize("text", ["\x00", "\x1b[2J", "a\nb", "\ud800", "x" * 100_000])
def test_no_option_takes_nonsense(read: Callable[[str], object], text: str) -> None:
    if read is arguments.path and text.startswith("xxx"):
        return  # the kernel says so
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        read(text)
    assert all(line.isprintable() for line in str(caught.value).splitlines())


@pytest.mark.parametrize(
    ("host", "named", "leads"),
    [
        ("0.0.0.0", None, True), ("0.0.0.0", "192.0.2.2", True), ("0.0.0.0", "host-b", True),
        ("0.0.0.0", "::1", False), ("127.0.0.1", "::1", False), ("::1", "127.0.0.1", False),
        ("::", "127.0.0.1", True), ("::", "::1", True), ("localhost", "::1", True),
    ],
)
def test_an_address_that_does_not_lead_here(host: str, named: str | None, leads: bool) -> None:
    if leads:
        arguments.reachable(host, named)
        return
    with pytest.raises(CpcError, match="does not lead to --listen") as caught:
        arguments.reachable(host, named)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("named", ["::1", "127.0.0.1"])
def test_the_default_is_reached_at_the_address_that_is_named(named: str, tmp_path: Path) -> None:
    secret = bytes(32)
    context = tls.server_context(tls.make_identity(tmp_path, "0" * 32))
    listener = Listener(arguments.any_address(named), 0, context, secret)
    try:
        socket.create_connection((named, listener.port), 10).close()
    finally:
        listener.close()


@pytest.mark.parametrize("kind", ["folder", "read-only"])
def test_a_descriptor_that_nothing_can_be_written_to(tmp_path: Path, kind: str) -> None:
    path = tmp_path if kind == "folder" else Path(os.devnull)
    number = os.open(path, os.O_RDONLY)
    try:
        with pytest.raises(arguments.Wrong, match="is not open for writing"):
            arguments.descriptor(str(number))
    finally:
        os.close(number)


@pytest.mark.parametrize("name", ["localhost", "-x", "a b", "x" * 300, "1.2.3"])
def test_name_of_this_host_is_not_fit_for_a_ticket(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    assert entry.main(["receive"]) == 2
    assert "cpcctl receive --address ADDRESS" in capsys.readouterr().err


@pytest.mark.parametrize("layer", ["environment", "file"])
@pytest.mark.parametrize(
    "value", ["/nonexistent", "/dev/null", "/tmp:/nonexistent", "srv", "/a\\x1b"]
)
def test_the_setting_is_checked_as_its_option(
    layer: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """Before anything is made for the job; other verbs do without these folders."""
    for name, folder in (("STATE_DIR", "s"), ("RUN_DIR", "r")):
        monkeypatch.setenv(f"CPCCTL_{name}", str(tmp_path / folder))
    monkeypatch.delenv("CPCCTL_ALLOW_PATHS", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    if layer == "environment":
        monkeypatch.setenv("CPCCTL_ALLOW_PATHS", value.replace("\\x1b", "\x1b"))
    else:
        (tmp_path / "cpcctl").mkdir()
        (tmp_path / "cpcctl/config.yaml").write_text(f'allow_paths: "{value}"\n')
    monkeypatch.setattr("cpcctl.migrate.receiving.receive", lambda *_: pytest.fail("it was taken"))
    assert entry.main(["receive", "--address", "::1"]) == 2
    told = capsys.readouterr()
    assert told.err.startswith("error: allow_paths: ") and told.out == ""
    assert not (tmp_path / "s").exists()
    if value.startswith("/") and value.isprintable() and "\\" not in value:
        assert "CPCCTL_ALLOW_PATHS" in told.err
        assert entry.main(["vm", "list"]) == 0


@pytest.mark.parametrize("name", ["STATE_DIR", "RUN_DIR", "CACHE_DIR", "QEMU", "FIRMWARE"])
def test_a_setting_that_is_no_path(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"CPCCTL_{name}", "/a\nb")
    assert entry.main(["vm", "list"]) == 2
    assert capsys.readouterr().err == f"error: {name.lower()}: '/a\\nb' is not a path\n"
