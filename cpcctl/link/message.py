# SPDX-License-Identifier: Apache-2.0
"""Typed messages: frozen dataclasses whose fields say what they may hold. Pure.

A field is annotated with its type and its bound, `Annotated[bytes, Data(32, 32)]`,
and the bound reads it from JSON and writes it again, on both ends alike. A request
names the type of its answer: `class Clock(Request[ClockReply])` is "clock".
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar, get_args, get_type_hints

from cpcctl.errors import quoted, shown, shown_lines

NUMBER_MAX = 1 << 62
Params = dict[str, Any]


class Malformed(ValueError):
    """A message, or one of its fields, is not what it must be."""


class Bound(Protocol):
    """What a field may hold, and how it travels."""

    def read(self, value: object) -> Any:
        """The field's value from JSON. :raise Malformed: it is out of bounds."""

    def write(self, value: Any) -> Any:
        """The field's value for JSON."""


@dataclass(frozen=True)
class Words:
    """Text to be shown: escaped, and cut to so many characters."""

    most: int

    def read(self, value: object) -> str:
        if not isinstance(value, str):
            raise Malformed("no text")
        return shown(value, self.most)

    def write(self, value: str) -> str:
        return value[: self.most]


@dataclass(frozen=True)
class Lines(Words):
    """The same, of several lines."""

    def read(self, value: object) -> str:
        if not isinstance(value, str):
            raise Malformed("no text")
        return shown_lines(value, self.most)


@dataclass(frozen=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]

    def read(self, value: object) -> str:
        if not isinstance(value, str) or value not in self.words:
            raise Malformed(f"none of {', '.join(self.words)}")
        return value

    def write(self, value: str) -> str:
        return value


@dataclass(frozen=True)
class Number:
    """A finite number."""

    def read(self, value: object) -> float:
        if type(value) not in (int, float):
            raise Malformed("no number")
        assert isinstance(value, int | float)
        # Before anything else: an integer of any length may stand here.
        if not -NUMBER_MAX <= value <= NUMBER_MAX or not math.isfinite(value):
            raise Malformed("not a usable number")
        return float(value)

    def write(self, value: float) -> float:
        return value


@dataclass(frozen=True)
class Count:
    """A whole number, both ends included."""

    least: int
    most: int

    def read(self, value: object) -> int:
        if type(value) is not int or not self.least <= value <= self.most:
            raise Malformed(f"not a whole number from {self.least} to {self.most}")
        return value

    def write(self, value: int) -> int:
        return value


@dataclass(frozen=True)
class Flag:
    """True or false."""

    def read(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise Malformed("neither true nor false")
        return value

    def write(self, value: bool) -> bool:
        return value


@dataclass(frozen=True)
class Data:
    """Bytes of one of these lengths, in base64."""

    lengths: tuple[int, ...]

    def read(self, value: object) -> bytes:
        if not isinstance(value, str) or len(value) > 4 * (max(self.lengths) // 3 + 1):
            raise Malformed("not base64, or too long")
        try:
            data = base64.b64decode(value, validate=True)
        except ValueError:
            raise Malformed("no base64") from None
        if len(data) not in self.lengths:
            raise Malformed(f"{len(data)} bytes")
        return data

    def write(self, value: bytes) -> str:
        return base64.b64encode(value).decode("ascii")


@dataclass(frozen=True)
class Attached:
    """Bytes that follow the frame's JSON as they are; a message has one such field."""

    most: int

    def read(self, value: object) -> bytes:
        if not isinstance(value, bytes) or not 0 < len(value) <= self.most:
            raise Malformed(f"not from 1 to {self.most} bytes")
        return value

    def write(self, value: bytes) -> bytes:
        return value


@dataclass(frozen=True)
class Many:
    """At most so many of a kind."""

    kind: Bound
    most: int

    def read(self, value: object) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) > self.most:
            raise Malformed(f"not a list of at most {self.most}")
        return tuple(self.kind.read(entry) for entry in value)

    def write(self, value: tuple[Any, ...]) -> list[Any]:
        return [self.kind.write(entry) for entry in value]


@dataclass(frozen=True)
class Document:
    """A JSON object that its own reader judges; at most so many values, so many levels deep."""

    values: int
    depth: int

    def read(self, value: object) -> Params:
        if not isinstance(value, dict):
            raise Malformed("no object")
        left, level = self.values, [value]
        for _ in range(self.depth):
            inner: list[Any] = []
            for entry in level:
                held = entry.values() if isinstance(entry, dict) else entry
                left -= len(held)
                inner += [found for found in held if isinstance(found, dict | list)]
            if left < 0:
                raise Malformed(f"more than {self.values} values")
            level = inner
            if not level:
                return value
        raise Malformed(f"more than {self.depth} levels")

    def write(self, value: Params) -> Params:
        return value


class Message:
    """Base of every message; its subclasses are frozen dataclasses."""

    @classmethod
    def read(
        cls, params: Mapping[str, Any], attached: bytes = b"", *, strict: bool = False
    ) -> Self:
        """From a frame. :raise Malformed: a field is missing or out of bounds.

        strict: a field that is not known is malformed too; else it is left out.
        """
        known, values = _bounds(cls), {}
        if strict and (odd := sorted(set(params) - set(known))):
            raise Malformed(f"unknown field {quoted(odd[0])}")
        for entry in fields(cls):  # type: ignore[arg-type]
            name, bound = entry.name, known[entry.name]
            if isinstance(bound, Attached):
                values[name] = bound.read(attached)
            elif name in params:
                try:
                    values[name] = bound.read(params[name])
                except Malformed as error:
                    raise Malformed(f"{name}: {error}") from error
            elif entry.default is MISSING:
                raise Malformed(f"no field {quoted(name)}")
        if attached and not any(isinstance(bound, Attached) for bound in known.values()):
            raise Malformed(f"{len(attached)} bytes attached to it")
        return cls(**values)

    def write(self) -> tuple[Params, bytes]:
        """For a frame: its JSON, and what is attached."""
        params: Params = {}
        attached = b""
        for name, bound in _bounds(type(self)).items():
            written = bound.write(getattr(self, name))
            if isinstance(bound, Attached):
                attached = written
            else:
                params[name] = written
        return params, attached


@dataclass(frozen=True)
class Record:
    """A message within a message."""

    kind: type[Message]

    def read(self, value: object) -> Message:
        if not isinstance(value, dict):
            raise Malformed("no object")
        return self.kind.read(value)

    def write(self, value: Message) -> Params:
        return value.write()[0]


R = TypeVar("R", bound=Message)


class Request(Message, Generic[R]):
    """A message that is answered by one of type R, within so many seconds."""

    seconds: ClassVar[float] = 30.0
    name: ClassVar[str]
    reply: ClassVar[type[Message]]

    def __init_subclass__(cls) -> None:
        cls.name = cls.__name__.lower()
        (cls.reply,) = get_args(cls.__orig_bases__[0])  # type: ignore[attr-defined]


_KNOWN: dict[type, dict[str, Bound]] = {}


def _bounds(cls: type[Message]) -> dict[str, Bound]:
    """Field name to bound."""
    if cls not in _KNOWN:
        hints = get_type_hints(cls, include_extras=True)
        names = [entry.name for entry in fields(cls)]  # type: ignore[arg-type]
        _KNOWN[cls] = {name: get_args(hints[name])[1] for name in names}
    return _KNOWN[cls]
