# SPDX-License-Identifier: Apache-2.0
"""Parses a YAML text of one document, strictly: no key is given twice, and no alias.

An alias of some bytes stands for any number of values: what has none is as large as its text.
"""

from __future__ import annotations

from typing import Any

import yaml

from cpcctl.errors import CpcError, ExitCode, quoted, reason


class _Strict(yaml.SafeLoader):
    """The safe loader lets the last of two equal keys win; here neither does."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            alias = self.peek_event()  # type: ignore[no-untyped-call]
            raise _Refused(f"the alias {quoted('*' + alias.anchor)} in line "
                           f"{alias.start_mark.line + 1}: write out what it stands for")
        return super().compose_node(parent, index)

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
