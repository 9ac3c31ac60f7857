# SPDX-License-Identifier: Apache-2.0
"""The whole command tree as data, for completion scripts and the man page."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cpcctl.cli.parser import Parser, build


@dataclass(frozen=True)
class Node:
    """One verb or group: its path ("" for cpcctl itself) and what may follow."""

    path: str
    help: str
    verbs: dict[str, str]
    actions: tuple[argparse.Action, ...]


def nodes() -> list[Node]:
    """Every node, parents first. Imports every verb's module."""
    return list(_walk(build(), "", ""))


def _walk(parser: Parser, path: str, text: str) -> Iterator[Node]:
    parser.declare()
    actions: list[argparse.Action] = []
    children: dict[str, Any] = {}
    texts: dict[str, str] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            children = dict(action.choices)
            texts = {choice.dest: choice.help or "" for choice in action._choices_actions}
        elif action.help != argparse.SUPPRESS:
            actions.append(action)
    yield Node(path, text, texts, tuple(actions))
    for name, child in children.items():
        yield from _walk(child, f"{path} {name}".strip(), texts[name])
