# SPDX-License-Identifier: Apache-2.0
"""What the destination's answers must look like. Pure.

An answer that does not is as good as none: nobody knows whether the other
side acted. What may be shown to a person is made fit for that here.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from typing import Any

from cpcctl.errors import shown, shown_lines

NUMBER_MAX = 1 << 62
LIST_MAX = 64
HVCPUS_MAX = 16
FACTS = ("NOTHING", "RECEIVING", "PREPARED", "RUNNING", "ABORTED", "FAILED", "DEAD")

Field = Callable[[Any], Any]


def _host(value: Any) -> str:
    return shown(_text(value), 256)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("no text")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value) or abs(value) > NUMBER_MAX:
        raise ValueError("no number")
    return float(value)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= NUMBER_MAX:
        raise ValueError("no count")
    return value


def _hvcpus(value: Any) -> int:
    if not 1 <= _count(value) <= HVCPUS_MAX:
        raise ValueError("no number of hvCPUs")
    return int(value)


def _data(value: Any) -> str:
    base64.b64decode(_text(value), validate=True)
    return str(value)


def _fact(value: Any) -> str:
    if _text(value) not in FACTS:
        raise ValueError("no fact")
    return str(value)


def _tokens(value: Any) -> list[str]:
    return [_data(entry) for entry in _list(value)]


def _checks(value: Any) -> list[dict[str, Any]]:
    found = []
    for entry in _list(value):
        if not isinstance(entry, dict) or not isinstance(entry.get("ok"), bool):
            raise ValueError("no check")
        name, reason = (shown(_text(entry.get(key) or "")) for key in ("name", "reason"))
        fix = shown_lines(_text(entry.get("fix") or ""))
        found.append({"name": name, "ok": entry["ok"], "reason": reason, "fix": fix})
    return found


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > LIST_MAX:
        raise ValueError("no list")
    return value


def _speeds(value: Any) -> dict[str, float]:
    """Bytes a second by the number of a suite, as text."""
    if not isinstance(value, dict) or len(value) > LIST_MAX:
        raise ValueError("no speeds")
    return {shown(key, 8): _number(speed) for key, speed in value.items()}


SHAPES: dict[str, dict[str, Field]] = {
    "ping": {"time": _number},
    "hello": {"host": _host},
    "clock": {"time": _number},
    "preflight": {"checks": _checks},
    "prepare": {
        "hvcpus": _hvcpus, "cores": _count, "idle": _number, "machine": _host, "open": _speeds,
    },
    "handshake": {"hello": _data, "confirmation": _data},
    "confirm": {"tokens": _tokens},
    "watch": {"taken": _count},
    "complete": {"token": _data},
    "run": {"token": _data, "released_at": _number},
    "query": {"fact": _fact, "token": _data},
    "abort": {"token": _data},
    "done": {},
}


def read(method: str, params: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    """The fields of the answer to a request; its others are left out.

    :raise ValueError: one is not as it must be.
    """
    shape = SHAPES.get(method)
    if shape is None:
        return result
    found = {}
    for key, field in shape.items():
        if key not in result:
            raise ValueError(f"{method} without {key}")
        try:
            found[key] = field(result[key])
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{key} of {method}: {error}") from error
    if method == "confirm" and len(found["tokens"]) != params.get("streams"):
        raise ValueError("another number of streams than was asked for")
    return found
