# SPDX-License-Identifier: Apache-2.0
"""A received VM gets the networks and ports that the operator names, and no other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from cpcctl.migrate import network
from cpcctl.migrate.network import Network
from cpcctl.ui.check import Check
from cpcctl.vm.spec import Nic, VmSpec

SPEC = VmSpec(name="t", memory=1 << 30, machine="pc-q35-10.0")
CARDS = replace(SPEC, nics=(Nic("tap", "tap0"), Nic(), Nic("tap", "tap1"), Nic("none")))
ALL = {"net0": "tap0", "net1": "user", "net2": "tap1"}


def failed(spec: VmSpec, allowed: Network, present: Iterable[str] = ()) -> dict[str, Check]:
    found = network.checks(spec, allowed, present, "host-b")
    assert [check.name for check in found] == ["nics", "hostfwd"]
    return {check.name: check for check in found if not check.ok}


@pytest.mark.parametrize(
    ("cards", "present", "wrong", "fix"),
    [
        (ALL, ["tap0", "tap1"], "", ""),
        ({}, ["tap0", "tap1"], "net0: this host's operator does not say", "--nic net0=tap0"),
        ({}, ["tap0", "tap1"], "net1: this host's operator does not say", "--nic net1=user"),
        (ALL, ["tap0"], "tap1: there is no such network device", "--nic net2=TAP"),
        ({**ALL, "net0": "t8"}, ["tap0", "tap1"], "t8: there is no such", "--nic net0=TAP"),
        ({"tap0": "t8", "net1": "user", "tap1": "t9"}, ["t8", "t9"], "", ""),
        ({**ALL, "net1": "t8"}, ["tap0", "tap1", "t8"], "net1: has a user network", "net1=user"),
        ({**ALL, "net0": "user"}, ["tap0", "tap1"], "net0: has tap tap0", "net0=tap0"),
        ({**ALL, "net3": "t8"}, ["tap0", "tap1", "t8"], "net3: no network device", "--nic NAME"),
        ({**ALL, "eth0": "t8"}, ["tap0", "tap1", "t8"], "eth0: no network device", "--nic NAME"),
    ],
)
def test_cards(cards: dict[str, str], present: list[str], wrong: str, fix: str) -> None:
    found = failed(CARDS, Network(cards), present)
    assert list(found) == (["nics"] if wrong else [])
    if wrong:
        assert wrong in str(found["nics"].reason)
        assert fix in str(found["nics"].fix)


def test_a_vm_without_a_network_needs_nothing() -> None:
    assert failed(SPEC, Network()) == {}
    assert failed(replace(SPEC, nics=(Nic("none"),)), Network()) == {}


def test_taps_are_fitted_to_the_destination() -> None:
    fitted = network.fit(CARDS, Network({"net0": "t8", "tap1": "t9", "net1": "user"}))
    assert [nic.tap for nic in fitted.nics] == ["t8", None, "t9", None]


def forwarding(*rules: str) -> VmSpec:
    return replace(SPEC, nics=(Nic(hostfwd=rules),))


USER = {"net0": "user"}


@pytest.mark.parametrize(
    ("rule", "allowed", "fix"),
    [
        ("tcp:127.0.0.1:2222-:22", "tcp:127.0.0.1:2222", ""),
        ("tcp::2222-:22", "tcp::2222", ""),
        ("tcp::2222-:22", "tcp:0.0.0.0:2222", ""),
        ("udp::53-10.0.2.15:53", "udp::53", ""),
        ("tcp::2222-:22", "tcp:127.0.0.1:2222", "--allow-hostfwd tcp:0.0.0.0:2222"),
        ("tcp::2222-:22", "udp::2222", "--allow-hostfwd tcp:0.0.0.0:2222"),
        ("tcp:127.0.0.1:2222-:22", "tcp:127.0.0.1:2223", "--allow-hostfwd tcp:127.0.0.1:2222"),
        ("tcp:127.0.0.1:2222-:22", "tcp::2222", "--allow-hostfwd tcp:127.0.0.1:2222"),
    ],
)
def test_forwards(rule: str, allowed: str, fix: str) -> None:
    side = network.port(allowed)
    assert side is not None
    found = failed(forwarding(rule), Network(USER, frozenset([side])))
    assert list(found) == (["hostfwd"] if fix else [])
    if fix:
        assert fix in str(found["hostfwd"].fix)
    assert list(failed(forwarding(rule), Network(USER))) == ["hostfwd"]


@pytest.mark.parametrize(
    "rule", ["unix:/run/x-:22", "tcp::22-/run/x", "tcp::1-:2,id=x", "x", "tcp::0-:22",
             "tcp::65536-:22", "tcp:1.2.3:5-:22", "tcp:1.2.3.4.5:5-:22"],
)  # fmt: skip
def test_odd_forwards(rule: str) -> None:
    found = failed(forwarding(rule), Network(USER, frozenset(["tcp:0.0.0.0:22"])))
    assert "not a plain TCP or UDP rule" in str(found["hostfwd"].reason)


@pytest.mark.parametrize("text", ["", "tcp", "tcp:22", "sctp::22", "tcp:host:22", "tcp::0", "22"])
def test_no_port(text: str) -> None:
    assert network.port(text) is None


def test_nothing_hostile_is_printed_as_it_is() -> None:
    for check in failed(forwarding("\x1b[2J"), Network()).values():
        assert str(check.reason).isprintable()
