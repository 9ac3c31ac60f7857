# SPDX-License-Identifier: Apache-2.0
"""Each cause has its own next step: the tables row by row."""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl

import pytest

from cpcctl.ui import hints


def os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


UNREACHABLE: list[tuple[OSError, str]] = [
    (socket.gaierror(-2, "Name or service not known"), "cpcctl receive --address"),
    (socket.gaierror(-3, "Temporary failure in name resolution"), "cpcctl receive --address"),
    (os_error(errno.ECONNREFUSED), "nothing listens there: run `cpcctl receive` on b.example"),
    (os_error(errno.ECONNRESET), "look at what `cpcctl receive` says on b.example"),
    (os_error(errno.EPIPE), "look at what `cpcctl receive` says on b.example"),
    (os_error(errno.ENETUNREACH), "ip route get b.example"),
    (os_error(errno.EHOSTUNREACH), "ping b.example"),
    (os_error(errno.EADDRNOTAVAIL), "cpcctl receive --address"),
    (os_error(errno.EACCES), "firewall of this host forbids it: allow TCP to b.example port 5"),
    (os_error(errno.EPERM), "firewall of this host forbids it"),
    (os_error(errno.EMFILE), "ulimit -n"),
    (TimeoutError("timed out"), "no firewall drops TCP port 5"),
    (os_error(errno.ETIMEDOUT), "no firewall drops TCP port 5"),
    (ssl.SSLError(1, "WRONG_VERSION_NUMBER"), "another program answers at b.example port 5"),
]


@pytest.mark.parametrize(("error", "words"), UNREACHABLE)
def test_a_destination_that_cannot_be_reached(error: OSError, words: str) -> None:
    assert words in hints.unreachable(error, "b.example", 5)


def test_every_row_for_a_destination_is_tried() -> None:
    assert set(hints._BY_ERRNO) <= {error.errno for error, _ in UNREACHABLE}


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (os_error(errno.EADDRINUSE), "ss -ltnp 'sport = :80'"),
        (os_error(errno.EADDRNOTAVAIL), "192.0.2.1 is none of this host's addresses"),
        (os_error(errno.EACCES), "a port from 1024 up"),
        (os_error(errno.EINVAL), "--listen"),
        (socket.gaierror(-2, "Name or service not known"), "name an address of this host"),
    ],
)
def test_an_address_to_listen_on(error: OSError, words: str) -> None:
    assert words in hints.not_listening(error, "192.0.2.1", 80)


BLOCK = "-blockdev {...}: "
# What QEMU 10.0 says, and what its operator is told to do.
REFUSALS = [
    ('-device virtio-blk-pci,drive=f: Failed to get "write" lock\n'
     "Is another process using the image [/d.raw]?", "another process uses the image"),
    ('Failed to get shared "write" lock', "another process uses the image"),
    ("-netdev tap,id=net0: could not configure /dev/net/tun (tap0): Device or resource busy",
     "another VM uses tap0"),
    ("-netdev tap,id=net0: could not configure /dev/net/tun (tap0): Operation not permitted",
     "ip tuntap add dev tap0 mode tap user"),
    ("-netdev tap,id=n,ifname=lo: could not configure /dev/net/tun (lo): Invalid argument",
     "ip -d link show lo"),
    ("-netdev tap,id=n: could not open /dev/net/tun: No such file or directory", "modprobe tun"),
    (BLOCK + "Could not open backing file: Could not open '/base.img': No such file or directory",
     "put the backing file there: /base.img"),
    (BLOCK + "Could not open backing file: Image is not in qcow2 format", "the backing file of a"),
    (BLOCK + "Could not open '/d.raw': Permission denied", "ls -l /d.raw: it must be yours"),
    (BLOCK + "Could not open '/d.raw': No such file or directory", "ls -l /d.raw"),
    (BLOCK + "Could not open '/d.raw': Read-only file system", "readonly: true"),
    (BLOCK + "Image is not in qcow2 format", "format: raw"),
    (BLOCK + "qcow2: Image is corrupt; cannot be opened read/write", "qemu-img check"),
    ("-device virtio-rng-pci: PCI: no slot/function available for virtio-rng-pci, all in use or "
     "reserved", "the PCI bus is full"),
    ("unable to find CPU model 'nope'", "/q -cpu help lists the models"),
    ("Property 'max-x86_64-cpu.nope' not found", "-cpu help lists the features; nope is none"),
    ('unsupported machine type: "pc-q35-99.0"', "/q -machine help"),
    ("-netdev user: Could not set up host forwarding rule 'tcp::22-:22'", "change hostfwd tcp::22"),
    ("-netdev user: Invalid host forwarding rule 'tcp::99999-:22' (Bad host port)",
     "hostfwd is written as tcp::2222-:22, not tcp::99999-:22"),
    ("-chardev socket,id=c: Failed to bind socket: Address already in use", "ss -lntup"),
    ("-device nope: 'nope' is not a valid device model name", "/q -device help"),
    ("-device virtio-rng-pci,id=a: Duplicate ID 'a' for device", "another id than a"),
    ("-device virtio-rng-pci,x=1: Property 'virtio-rng-pci.x' not found",
     "/q -device virtio-rng-pci,help"),
    ("-device nvme,drive=no: Property 'nvme.drive' can't find value 'no'",
     "take what names no out"),
    ("-device virtio-rng-pci,bus=no: Bus 'no' not found", "take bus=no out"),
    ("Failed to write pid: No space left on device", "df -h"),
    ("cannot set up guest memory 'pc.ram': Cannot allocate memory", "free -m"),
    (BLOCK + "Could not open '/d': Too many open files", "ulimit -n"),
    ("Could not access KVM kernel module: No such file or directory", "cpcctl doctor"),
    ("qemu: could not open kernel file '/k': No such file or directory", "ls -l /k"),
    ("qemu: error reading initrd /i: No such file or directory", "ls -l /i"),
    ("qemu: initrd is too large, cannot support.(max: 1, need 2)", "use a smaller initrd"),
    ("-chardev socket,id=c: Failed to bind socket to /run/x: Permission denied", "must be yours"),
    ("-chardev socket,id=c: Failed to bind socket to /run/x: No such file or directory",
     "ls -l what QEMU names"),
    ("something that no table knows", "cpcctl vm start --print-command"),
    (None, "cpcctl vm start --print-command"),
]


@pytest.mark.parametrize(("words", "hint"), REFUSALS)
def test_a_qemu_that_refuses(words: str | None, hint: str) -> None:
    found = hints.qemu_refusal(words, "/q")
    assert hint in found
    assert "{" not in found
    assert "stop" not in found, "nothing is proven that would allow it"


def test_every_row_for_qemu_is_reached() -> None:
    unreached = {pattern for pattern, _ in hints._QEMU}
    for words, _ in REFUSALS:
        first = next((p for p, _ in hints._QEMU if re.search(p, words or "")), None)
        unreached.discard(first or "")
    assert not unreached


@pytest.mark.parametrize(
    ("state", "reason", "fix"),
    [
        ("paused", "was paused", "cpcctl vm resume web"),
        ("io-error", "error of its disk", "df -h"),
        ("watchdog", "watchdog has expired", "cpcctl vm console web"),
        ("guest-panicked", "kernel has panicked", "cpcctl vm status web"),
        ("shutdown", "has shut down", "cpcctl vm stop web ends its QEMU"),
        ("prelaunch", "has not been started", "cpcctl job list --vm web"),
        ("inmigrate", "still arriving", "wait for the migration"),
        ("postmigrate", "QEMU itself has migrated", "on the other host"),
        ("finish-migrate", "QEMU itself migrates", "wait until"),
        ("frozen", "frozen by an earlier migration", "cpcctl vm status web"),
        ("suspended", "went to sleep", "cpcctl vm resume web wakes it"),
        ("internal-error", "an error of its own or of KVM", "QEMU's log"),
        ("debug", "debugger", "in the debugger"),
        ("save-vm", "QEMU saves", "wait until"),
        ("restore-vm", "QEMU loads", "wait until"),
        ("colo", "COLO", "end the replication"),
        ("stopped", "has been stopped", "cpcctl vm start"),
        ("unreachable", "does not answer", "cpcctl vm status web"),
        ("new-in-11", "QEMU says new-in-11", "cpcctl vm status web"),
    ],
)
def test_a_guest_that_does_not_run(state: str, reason: str, fix: str) -> None:
    said, hint = hints.run_state(state, "web")
    assert reason in said
    assert fix in hint
    assert "--force" not in hint
