# SPDX-License-Identifier: Apache-2.0
"""Values of YAML as the user wrote them, each read as what its key wants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cpcctl.config.document import parse
from cpcctl.config.settings import from_document
from cpcctl.errors import CpcError
from cpcctl.host.state import NAME
from cpcctl.vm import spec

# What YAML 1.1 would make another value of.
TEXTS = ["no", "on", "True", "null", "1e3", "010", "0x1f", "2026-11-30", "12.50", "1_0", "7",
         ".inf", "NaN", "NO", "1.10"]


def load(tmp_path: Path, text: str) -> spec.VmSpec:
    path = tmp_path / "vm.yaml"
    path.write_text(text)
    return spec.load(path)


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_what_was_written(text: str, tmp_path: Path) -> None:
    if NAME.fullmatch(text):
        assert load(tmp_path, f"name: {text}\nmemory: 64M\n").name == text
    found = load(tmp_path, f"name: a\nmemory: 64M\nkernel: /k\nappend: {text}\n")
    assert found.append == text
    assert type(found.append) is str
    assert load(tmp_path, spec.dump(found)) == found
    assert from_document(parse(f"host: {text}".encode(), "f"), "f") == {"host": text}


@pytest.mark.parametrize("mac", ["41:13:50:85:29:06", "42:54:00:12:34:56", "40:00:00:00:00:00"])
def test_a_mac_of_digits_needs_no_quotes(mac: str, tmp_path: Path) -> None:
    text = "name: a\nmemory: 64M\nnics:\n  - mac: {}\n"
    if int(mac[1], 16) & 1:
        with pytest.raises(CpcError) as caught:
            load(tmp_path, text.format(mac))
        assert caught.value.message.endswith(f"'{mac}' is not a unicast MAC address")
    else:
        assert load(tmp_path, text.format(mac)).nics[0].mac == mac


@pytest.mark.parametrize(
    ("line", "value"),
    [("vcpus: 8", 8), ("vcpus: 0x8", 8), ("memory_blocks: 1", 1), ("hvcpus: 0", 0)],
)
def test_numbers(line: str, value: int, tmp_path: Path) -> None:
    found = load(tmp_path, f"name: a\nmemory: 64M\n{line}\n")
    assert getattr(found, line.split(":")[0]) == value


@pytest.mark.parametrize("text", ["010", "08", "1_0", "1.0", "1e1", "0b1", "0o7", "1:30", "+1",
                                  "-1", "true", "null", "", "'8'", '"8"', "9" * 5000, "\u0668"])
def test_what_is_no_whole_number(text: str, tmp_path: Path) -> None:
    with pytest.raises(CpcError) as caught:
        load(tmp_path, f"name: a\nmemory: 64M\nvcpus: {text}\n")
    assert "is not a whole number in 1..256" in caught.value.message
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("True", True), ("yes", True), ("on", True), ("false", False),
     ("no", False), ("OFF", False)],
)
def test_true_and_false(text: str, value: bool, tmp_path: Path) -> None:
    disks = "name: a\nmemory: 64M\ndisks: [{{path: /d, readonly: {}}}]\n"
    assert load(tmp_path, disks.format(text)).disks[0].readonly is value
    for other in (f"'{text}'", "1", "y", ""):
        with pytest.raises(CpcError, match="neither true nor false"):
            load(tmp_path, disks.format(other))


@pytest.mark.parametrize("text", ["a: !!int 1", "a: !!binary aGk=", "!!map {a: 1}", "a: !x [1]",
                                  "!!python/name:os.system x", "a: {b: !!str 1}"])
def test_no_tags(text: str) -> None:
    with pytest.raises(CpcError, match="the tag "):
        parse(text.encode(), "f")


@pytest.mark.parametrize(
    ("text", "found"),
    [("", None), ("{}", {}), ("a: [x, 'y', {b: c}]", {"a": ["x", "y", {"b": "c"}]}),
     ("? a\n: b", {"a": "b"}), ("1: 2", {"1": "2"}), ("a: ! x", {"a": "x"}),
     ("a: |\n  b\n  c\n", {"a": "b\nc\n"})],
)
def test_the_shape_of_a_document(text: str, found: Any) -> None:
    assert parse(text.encode(), "f") == found
