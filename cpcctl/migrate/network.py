# SPDX-License-Identifier: Apache-2.0
"""Which networks and ports of this host a received VM gets: those its operator names. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from cpcctl.errors import shown
from cpcctl.ui.check import Check
from cpcctl.vm.spec import Nic, VmSpec

# In --nic: QEMU's user-mode network, which reaches what this host reaches.
USER = "user"
FORWARD = re.compile(r"((?:tcp|udp):[0-9.]*:\d{1,5})-[0-9.]*:\d{1,5}")
PORT = re.compile(r"(tcp|udp):([0-9.]*):(\d{1,5})")
ANY = "0.0.0.0"


@dataclass(frozen=True)
class Network:
    """What the operator of `receive` named.

    cards: a card's name (net0), or the tap it has on the source, to the tap it gets, or USER
    ports: as port() gives them
    """

    cards: Mapping[str, str] = field(default_factory=dict)
    ports: frozenset[str] = frozenset()


def port(text: str) -> str | None:
    """PROTOCOL:ADDRESS:PORT with the address written out; None when it is none.

    No address means all of them, as in QEMU's rules.
    """
    match = PORT.fullmatch(text)
    if match is None or not 0 < int(match[3]) < 1 << 16:
        return None
    try:
        address = ipaddress.IPv4Address(match[2] or ANY)
    except ValueError:
        return None
    return f"{match[1]}:{address}:{int(match[3])}"


def checks(spec: VmSpec, network: Network, present: Iterable[str], host: str) -> list[Check]:
    """present: network devices of this host, whose name host is."""
    wrong, fixes = _cards(spec, network, set(present))
    rules = [rule for nic in spec.nics for rule in nic.hostfwd]
    sides = {rule: port(match[1]) for rule in rules if (match := FORWARD.fullmatch(rule))}
    odd = [shown(rule, 256) for rule in rules if sides.get(rule) is None]
    closed = sorted({side for side in sides.values() if side and side not in network.ports})
    reasons = [f"{', '.join(odd)} is not a plain TCP or UDP rule"] if odd else []
    if closed:
        reasons.append(
            f"the VM would listen on {', '.join(closed)}, which this host's operator does not allow"
        )
    option = " ".join(f"--allow-hostfwd {side}" for side in closed)
    return [
        Check.of(host, "nics", not wrong, "; ".join(wrong), "\n".join(dict.fromkeys(fixes))),
        Check.of(
            host, "hostfwd", not reasons, "; ".join(reasons),
            "start the VM with rules such as tcp::2222-:22" if odd
            else f"cpcctl receive {option}",
        ),
    ]  # fmt: skip


def _cards(spec: VmSpec, network: Network, present: set[str]) -> tuple[list[str], list[str]]:
    """What is wrong with the cards, and what to do."""
    cards = {f"net{i}": nic for i, nic in enumerate(spec.nics) if nic.mode != "none"}
    known = {*cards, *(nic.tap for nic in cards.values())}
    words = ", ".join(f"{name} ({_kind(nic)})" for name, nic in cards.items()) or "none"
    wrong = [
        f"{name}: no network device of VM {spec.name} on a tap or a user network has this "
        f"name; it has {words}"
        for name in network.cards
        if name not in known
    ]
    fixes = ["name a network device of the VM: cpcctl receive --nic NAME=TAP"] if wrong else []
    for name, nic in cards.items():
        given = _given(name, nic, network)
        ours = USER if nic.mode == "user" else nic.tap or "TAP"
        option = f"cpcctl receive --nic {name}={ours}"
        if given is None:
            wrong.append(
                f"{name}: this host's operator does not say which network it gets; "
                f"on the source it has {_kind(nic)}"
            )
            fixes.append(option)
        elif (given == USER) != (nic.mode == "user"):
            wrong.append(f"{name}: has {_kind(nic)} on the source, so it cannot have {given} here")
            fixes.append(option)
        elif given != USER and given not in present:
            wrong.append(f"{given}: there is no such network device")
            fixes.append(
                f"make the tap on this host, or name another one: cpcctl receive --nic {name}=TAP"
            )
    return wrong, fixes


def _given(name: str, nic: Nic, network: Network) -> str | None:
    return network.cards.get(name, network.cards.get(nic.tap) if nic.tap else None)


def _kind(nic: Nic) -> str:
    return f"tap {nic.tap}" if nic.tap else "a user network"


def fit(spec: VmSpec, network: Network) -> VmSpec:
    """The VM with the taps that it has on the destination."""
    nics = tuple(
        replace(nic, tap=_given(f"net{index}", nic, network) or nic.tap) if nic.tap else nic
        for index, nic in enumerate(spec.nics)
    )
    return replace(spec, nics=nics)
