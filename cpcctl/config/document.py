# SPDX-License-Identifier: Apache-2.0
"""Parses a YAML text of one document, strictly: no key is given twice, no alias, no tag.

An alias of some bytes stands for any number of values: what has none is as large as its text.
Values stay as they were written, and each key reads what it wants of them. YAML's own guesses
make a number of the MAC 41:13:50:85:29:06, False of the name no, and 8 of 010.
"""

from __future__ import annotations

from typing import Any

import yaml

from cpcctl.config.plain import Plain
from cpcctl.errors import CpcError, ExitCode, quoted, reason


class _Strict(yaml.BaseLoader):
    """The base loader takes each value as a text. It lets the last of two equal keys win and
    passes over tags; here both are refused."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) not in (None, "!"):
            raise _Refused(f"the tag {quoted(event.tag)} in line {event.start_mark.line + 1}: "
                           "each key has its own kind of value")
        if self.check_event(yaml.AliasEvent):
            alias = self.peek_event()  # type: ignore[no-untyped-call]
            raise _Refused(f"the alias {quoted('*' + alias.anchor)} in line "
                           f"{alias.start_mark.line + 1}: write out what it stands for")
        return super().compose_node(parent, index)

    def construct_scalar(self, node: yaml.ScalarNode) -> str:
        text = str(super().construct_scalar(node))
        return text if node.style else Plain(text)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise _Refused(f"key {quoted(key.value)} is given twice, again in line "
                                   f"{key.start_mark.line + 1}")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Refused(Exception):
    """What YAML allows and we do not."""


def parse(data: bytes, where: str) -> object:
    """The document in `data`; None when there is none. Raises CpcError (2)."""
    try:
        return yaml.load(data.decode(), _Strict)
    except _Refused as error:
        raise CpcError(f"{where}: {error}", exit_code=ExitCode.USAGE) from error
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        raise CpcError(
            f"{where} is not valid YAML", exit_code=ExitCode.USAGE, cause=reason(error)
        ) from error
