# SPDX-License-Identifier: Apache-2.0
"""What QEMU says of a CPU model: its features and other properties."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cpcctl.errors import CpcError, ExitCode
from cpcctl.host.qmp import Qmp, QmpError


def settings(model: str) -> tuple[str, dict[str, bool]]:
    """A model and what is set of it, as QEMU's -cpu takes it.

    Of KEY=on and KEY=off the last one counts, +KEY counts more, -KEY more than that.
    """
    name, *words = model.split(",")
    props: dict[str, bool] = {}
    for sign in ("=", "+", "-"):
        for word in words:
            key, equals, value = word.partition("=")
            if sign == "=" == equals:
                props[key] = value == "on"
            elif not equals and word[0] == sign:
                props[word[1:]] = sign == "+"
    return name, props


def changed(model: str, on: Iterable[str] = (), off: Iterable[str] = ()) -> str:
    """What to write to have features on and others off, whatever `model` sets of them."""
    on, off = list(on), list(off)
    name, *words = model.split(",")
    kept = [word for word in words if word.lstrip("+-").split("=")[0] not in {*on, *off}]
    return ",".join([name, *kept, *(f"+{key}" for key in on), *(f"{key}=off" for key in off)])


def expand(qmp: Qmp, model: str, fix: str | None = None) -> dict[str, Any]:
    """Every property of a model with features, such as EPYC,-aes,pcid=off.

    Raises CpcError (3) for one that QEMU does not know. fix: what to do then
    """
    name, props = settings(model)
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
            hint=fix,
        ) from error
    found = answer["model"]["props"]
    assert isinstance(found, dict)
    return found
