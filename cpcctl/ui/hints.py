# SPDX-License-Identifier: Apache-2.0
"""What to do about a cause: one table for each kind of cause. Pure, without I/O."""

from __future__ import annotations

import errno
import re
import socket
import ssl

# ---- a destination that cannot be reached --------------------------------------------

_BY_ERRNO = {
    errno.ECONNREFUSED: "nothing listens there: run `cpcctl receive` on {host} and migrate with "
    "its ticket",
    errno.ECONNRESET: "look at what `cpcctl receive` says on {host}",
    errno.EPIPE: "look at what `cpcctl receive` says on {host}",
    errno.ENETUNREACH: "ip route get {host}: this host has no route to it",
    errno.EHOSTUNREACH: "ping {host}: no host answers at this address",
    errno.EADDRNOTAVAIL: "cpcctl receive --address ADDRESS there, with one that this host reaches",
    errno.EACCES: "a firewall of this host forbids it: allow TCP to {host} port {port}",
    errno.EPERM: "a firewall of this host forbids it: allow TCP to {host} port {port}",
    errno.EMFILE: "ulimit -n: this host is out of file descriptors",
}
NOT_RESOLVED = (
    "cpcctl receive --address ADDRESS on the destination, with an address that this host can "
    "resolve"
)
SILENT = "check that {host} is up and that no firewall drops TCP port {port}"
NO_TLS = "another program answers at {host} port {port}: run `cpcctl receive` there again"


def unreachable(error: OSError, host: str, port: int) -> str:
    """For a destination that a ticket names."""
    if isinstance(error, socket.gaierror):
        return NOT_RESOLVED
    if isinstance(error, ssl.SSLError):
        return NO_TLS.format(host=host, port=port)
    return _BY_ERRNO.get(error.errno or 0, SILENT).format(host=host, port=port)


# ---- an address to listen on ------------------------------------------------------------

_LISTEN = {
    errno.EADDRINUSE: "ss -ltnp 'sport = :{port}' shows who has it\n--listen HOST:0 takes any "
    "free port",
    errno.EADDRNOTAVAIL: "ip address: {host} is none of this host's addresses",
    errno.EACCES: "name a port from 1024 up, or 0 for any free one",
}


def not_listening(error: OSError, host: str, port: int) -> str:
    """For --listen of receive."""
    if isinstance(error, socket.gaierror):
        return "name an address of this host: ip address"
    return _LISTEN.get(error.errno or 0, "name another address or port with --listen").format(
        host=host, port=port
    )


# ---- a QEMU that refuses to start --------------------------------------------------------

# The first row that is found in QEMU's words; {1} is what its first group found.
_QEMU: tuple[tuple[str, str], ...] = (
    (r"Failed to get (?:shared )?\"?(?:write|consistent read|resize)\"? lock",
     "another process uses the image: cpcctl vm list here and on hosts that share it"),
    (r"could not configure /dev/net/tun \(([^)]+)\): Device or resource busy",
     "cpcctl vm list: another VM uses {1}\nname another tap in the definition"),
    (r"could not open /dev/net/tun", "modprobe tun, or use nics of mode user"),
    (r"could not configure /dev/net/tun \(([^)]+)\): Operation not permitted",
     "ip tuntap add dev {1} mode tap user $(id -un), as root"),
    (r"could not configure /dev/net/tun \(([^)]+)\)",
     "ip -d link show {1}: it must be a tap device"),
    (r"Could not open backing file: Could not open '([^']+)': No such file",
     "put the backing file there: {1}"),
    (r"Could not open backing file", "ls -l what QEMU names: it is the backing file of a disk"),
    (r"Could not open '([^']+)': Permission denied", "ls -l {1}: it must be yours to open"),
    (r"Could not open '([^']+)': No such file", "ls -l {1}"),
    (r"Could not open '([^']+)': Read-only file system",
     "mount: whether {1} is on a file system without writing\n"
     "readonly: true, if the guest only reads it"),
    (r"Image is not in qcow2 format", "format: raw in the definition, if the image is raw"),
    (r"[Ii]mage (?:is|as) corrupt", "qemu-img check, of the image that QEMU names"),
    (r"no slot/function available", "leave out a disk, a nic or a device: the PCI bus is full"),
    (r"unable to find CPU model '([^']+)'", "{qemu} -cpu help lists the models; cpu: max is one"),
    (r"Property '[\w-]+-cpu\.([^']+)' not found",
     "{qemu} -cpu help lists the features; {1} is none"),
    (r"[Uu]nsupported machine type", "{qemu} -machine help lists the machine types"),
    (r"Could not set up host forwarding rule '([^']+)'",
     "ss -lntup shows who has the port\nchange hostfwd {1} in the definition"),
    (r"Invalid host forwarding rule '([^']+)'", "hostfwd is written as tcp::2222-:22, not {1}"),
    (r"[Aa]ddress already in use", "ss -lntup shows who has the address"),
    (r"'?([\w.-]+)'? is not a valid device model name", "{qemu} -device help lists the devices"),
    (r"Duplicate ID '([^']+)'", "give the device another id than {1}"),
    (r"Property '[\w-]+\.\S+' can't find value '([^']+)'",
     "take what names {1} out of devices: there is no such object"),
    (r"Property '([\w-]+)\.[^']+' not found", "{qemu} -device {1},help lists its settings"),
    (r"Bus '([^']+)' not found", "take bus={1} out of devices, or add the bus before"),
    (r"No space left on device", "df -h: make room where QEMU writes"),
    (r"Cannot allocate memory",
     "free -m: end something, or use less memory"),
    (r"Too many open files", "ulimit -n: raise the limit of open files"),
    (r"Could not access KVM kernel module|failed to initialize kvm", "cpcctl doctor: its row kvm"),
    (r"could not open kernel file '([^']+)'", "ls -l {1}"),
    (r"error reading initrd ([^:]+):", "ls -l {1}"),
    (r"initrd is too large", "use a smaller initrd, or more memory"),
    (r"Permission denied", "ls -l what QEMU names: it must be yours to open"),
    (r"No such file or directory", "ls -l what QEMU names"),
)
PRINT_COMMAND = "cpcctl vm start --print-command FILE shows what QEMU was given"


def qemu_refusal(words: str | None, qemu: str) -> str:
    """For the words with which a QEMU ended before its machine ran. qemu: its file."""
    for pattern, hint in _QEMU:
        found = re.search(pattern, words or "")
        if found:
            first = next((group for group in found.groups() if group), "")
            return hint.replace("{1}", first).replace("{qemu}", qemu)
    return PRINT_COMMAND


# ---- a guest that does not run -------------------------------------------------------------

_STATES = {
    "paused": ("the guest was paused", "cpcctl vm resume {vm}"),
    "io-error": (
        "the guest was stopped by an error of its disk, such as no space",
        "df -h where its disks are, make room, then cpcctl vm resume {vm}",
    ),
    "watchdog": (
        "the guest's watchdog has expired",
        "cpcctl vm console {vm}, then cpcctl vm resume {vm} if it should go on",
    ),
    "guest-panicked": (
        "the guest's kernel has panicked",
        "cpcctl vm status {vm} says where its console log is; the guest can only be started anew",
    ),
    "shutdown": (
        "the guest has shut down",
        "cpcctl vm stop {vm} ends its QEMU, then cpcctl vm start",
    ),
    "prelaunch": ("the guest has not been started", "cpcctl job list --vm {vm}"),
    "inmigrate": (
        "the guest is still arriving",
        "cpcctl job list --vm {vm}: wait for the migration that brings it",
    ),
    "postmigrate": (
        "QEMU itself has migrated this guest away",
        "cpcctl vm status {vm} on the other host: it may run there",
    ),
    "finish-migrate": (
        "QEMU itself migrates this guest", "wait until that has ended: cpcctl vm status {vm}"
    ),
    "frozen": (
        "the guest is frozen by an earlier migration",
        "cpcctl vm status {vm} names the job, and what to do",
    ),
    "suspended": ("the guest went to sleep (ACPI S3)", "cpcctl vm resume {vm} wakes it"),
    "internal-error": (
        "QEMU has stopped the guest after an error of its own or of KVM",
        "cpcctl vm status {vm} says where QEMU's log is",
    ),
    "debug": ("a debugger has stopped the guest", "let it go on in the debugger"),
    "save-vm": ("QEMU saves the guest", "wait until that has ended: cpcctl vm status {vm}"),
    "restore-vm": ("QEMU loads the guest", "wait until that has ended: cpcctl vm status {vm}"),
    "colo": ("the guest is replicated by COLO", "end the replication"),
    "stopped": ("the guest has been stopped", "cpcctl vm start"),
    "unreachable": ("QEMU does not answer", "cpcctl vm status {vm}"),
}


def run_state(state: str, vm: str) -> tuple[str, str]:
    """Why a guest in a state other than running does not run, and what to do."""
    reason, fix = _STATES.get(
        state, (f"the guest does not run: QEMU says {state}", "cpcctl vm status {vm}")
    )
    return reason, fix.format(vm=vm)
