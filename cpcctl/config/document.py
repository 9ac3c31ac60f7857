# SPDX-License-Identifier: Apache-2.0
"""Parses a YAML text of one document, strictly: no key is given twice."""

from __future__ import annotations

from typing import Any

import yaml

from cpcctl.errors import CpcError, ExitCode, reason


class _Strict(yaml.SafeLoader):
    """The safe loader lets the last of two equal keys win; here neither does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise _Twice(f"key {key.value!r} is given twice, again in line "
                                 f"{key.start_mark.line + 1}")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Twice(Exception):
    """A key that is given twice."""


def parse(data: bytes, where: str) -> object:
    """The document in `data`; None when there is none. Raises CpcError (2)."""
    try:
        return yaml.load(data.decode(), _Strict)
    except _Twice as error:
        raise CpcError(f"{where}: {error}", exit_code=ExitCode.USAGE) from error
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        raise CpcError(
            f"{where} is not valid YAML", exit_code=ExitCode.USAGE, cause=reason(error)
        ) from error
