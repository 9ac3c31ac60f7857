# SPDX-License-Identifier: Apache-2.0
"""The man page, from the table of verbs: python3 -m cpcctl.cli.man > cpcctl.1"""

from __future__ import annotations

import argparse
import sys

from cpcctl import __version__
from cpcctl.cli.tree import Node, nodes
from cpcctl.config.settings import NAMES

EXITS = (
    (0, "done, or already so"),
    (1, "failed; the VM is confirmed on the source"),
    (2, "usage, configuration or unsupported flag"),
    (3, "refused by preflight, policy or QEMU, or a part or file is missing; nothing changed"),
    (4, "host, QEMU or firmware unreachable; nothing started"),
    (5, "the VM's place or state is not proven; a person must look; never retry"),
    (6, "timed out; cancelled; the VM is confirmed on the source"),
    (7, "proven lost; restore from a snapshot"),
    (8, "the guest ended by itself (shut down, reset or panicked); the VM is stopped"),
    (70, "internal error in cpcctl"),
    (75, "busy; retry later"),
    (130, "interrupted, cancel confirmed (143 after SIGTERM, 129 after SIGHUP)"),
)
FILES = (
    ("$XDG_CONFIG_HOME/cpcctl/config.yaml, /etc/cpcctl/config.yaml", "configuration; keys: "
     + ", ".join(NAMES) + "; a flag wins over a variable, that over the first file, that over "
     "the second"),
    ("/var/lib/cpcctl, /run/cpcctl", "state and runtime files of root; others have "
     "$XDG_STATE_HOME/cpcctl (~/.local/state/cpcctl) and $XDG_RUNTIME_DIR/cpcctl "
     "(~/.local/state/cpcctl/run without that variable); no other user may write to them"),
)
VARIABLES = (
    ("CPCCTL_STATE_DIR, CPCCTL_RUN_DIR", "folders for state and for sockets and ring files"),
    ("CPCCTL_QEMU, CPCCTL_QEMU_DATA, CPCCTL_FIRMWARE", "the parts to use"),
    ("CPCCTL_CACHE_DIR, CPC_CACHE", "where built parts are looked for (~/.cache/cpc)"),
    ("CPCCTL_HOST", "this host's name in messages"),
    ("CPCCTL_FORMAT, CPCCTL_PROGRESS", "defaults of the flags"),
    ("CPCCTL_ACCEL", "auto (default), tcg or kvm, for VMs whose definition and flags leave it "
     "open; auto is kvm where a small guest and an hvCPU were seen to run with it"),
    ("CPCCTL_KVM_VERDICT", "file that remembers whether they were, until the next boot "
     "(kvm-verdict.json in the state folder); cpcctl doctor finds out again"),
    ("CPCCTL_PATIENCE", "factor for time limits, such as 10 on a host that is itself emulated"),
    ("NO_COLOR", "no colours"),
)


def page(tree: list[Node]) -> str:
    """The page in man(7) macros."""
    top = tree[0]
    out = [
        '.\\" SPDX-License-Identifier: Apache-2.0',
        f'.TH CPCCTL 1 "" "cpcctl {__version__}"',
        ".SH NAME",
        "cpcctl \\- maintenance of VMs through confidential procedure calls",
        ".SH SYNOPSIS",
        ".B cpcctl",
        "\\fIVERB\\fR [options]",
        ".SH COMMON OPTIONS",
    ]
    out += _actions(top)
    out.append(".SH VERBS")
    for node in tree[1:]:
        if node.verbs:
            continue
        out += [f'.SS "{_e(_usage(node))}"', _e(node.help[0].upper() + node.help[1:]) + "."]
        common = {flag for action in top.actions for flag in action.option_strings}
        out += _actions(node, common)
    out += _listed("EXIT STATUS", [(str(code), text) for code, text in EXITS])
    out += _listed("ENVIRONMENT", VARIABLES)
    out += _listed("FILES", FILES)
    return "\n".join(out) + "\n"


def _usage(node: Node) -> str:
    words = ["cpcctl", node.path]
    for action in node.actions:
        if not action.option_strings:
            name = _name(action)
            words.append(f"[{name}]" if action.nargs == "?" else name)
    return " ".join(words)


def _name(action: argparse.Action) -> str:
    if action.choices:
        return "|".join(str(choice) for choice in action.choices)
    return str(action.metavar or action.dest.upper())


def _actions(node: Node, hidden: set[str] | None = None) -> list[str]:
    out: list[str] = []
    for action in node.actions:
        if hidden and hidden & set(action.option_strings):
            continue
        flags = ", ".join(action.option_strings) or _name(action)
        value = f" {_name(action)}" if action.option_strings and action.nargs != 0 else ""
        out += [".TP", f".B {_e(flags + value)}", _e(str(action.help))]
    return out


def _listed(title: str, items: list[tuple[str, str]] | tuple[tuple[str, str], ...]) -> list[str]:
    out = [f'.SH "{title}"']
    for name, text in items:
        out += [".TP", f".B {_e(name)}", _e(text)]
    return out


def _e(text: str) -> str:
    return text.replace("\\", "\\\\").replace("-", "\\-").replace('"', "\\(dq")


if __name__ == "__main__":
    sys.stdout.write(page(nodes()))
