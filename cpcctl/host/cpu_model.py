# SPDX-License-Identifier: Apache-2.0
"""What QEMU says of a CPU model: its features and other properties."""

from __future__ import annotations

from typing import Any

from cpcctl.errors import CpcError, ExitCode
from cpcctl.host.qmp import Qmp, QmpError


def expand(qmp: Qmp, model: str) -> dict[str, Any]:
    """Every property of a model with features, such as EPYC,-aes,pcid=off.

    Raises CpcError (3) for a model that QEMU does not know.
    """
    name, *words = model.split(",")
    props: dict[str, Any] = {}
    for word in words:
        if word[:1] in "+-":
            props[word[1:]] = word[0] == "+"
        elif "=" in word:
            key, _, value = word.partition("=")
            props[key] = {"on": True, "off": False}.get(value, value)
    try:
        answer = qmp.execute_raw(
            "query-cpu-model-expansion",
            {"type": "full", "model": {"name": name, "props": props}},
        )
    except QmpError as error:
        raise CpcError(
            f"QEMU on this host has no CPU {model}",
            exit_code=ExitCode.REFUSED,
            cause=error.cause,
        ) from error
    found = answer["model"]["props"]
    assert isinstance(found, dict)
    return found
