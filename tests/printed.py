# SPDX-License-Identifier: Apache-2.0
"""The command line that `vm start --print-command` shows, beside the one that ran."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

CONFINING = {"-run-with", "-sandbox"}


def check(used: Sequence[str], printed: Sequence[str]) -> None:
    """The same, but that QEMU inherits files and sockets, and is confined behind it all."""
    used = _without(used, "-add-fd")
    assert len(used) >= len(printed)
    for ran, shown in zip(used, printed, strict=False):
        assert _without_place(ran) == _without_place(shown) or (
            ran.startswith("/proc/self/fd/") and shown.startswith("/")
        ), (ran, shown)
    assert {word for word in used[len(printed) :] if word.startswith("-")} <= CONFINING


def _without(words: Sequence[str], option: str) -> list[str]:
    """Without an option and its value."""
    return [
        word
        for before, word in zip(["", *words], words, strict=False)
        if option not in (before, word)
    ]


def _without_place(word: str) -> str:
    """A socket or a block node by its name alone, a device without its file."""
    if word.startswith("{"):
        node = json.loads(word)
        node.pop("filename", None)
        return json.dumps(node, sort_keys=True)
    word = re.sub(r"^(socket,id=[\w-]+),(?:path=[^,]+|fd=\d+)", r"\1", word)
    return re.sub(r"(firmware|logfile)=[^,]+", r"\1=", word)
