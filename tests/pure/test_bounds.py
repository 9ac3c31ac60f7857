# SPDX-License-Identifier: Apache-2.0
"""What little input may cost: no document and no error grows beyond its bound."""

from __future__ import annotations

import ast
import os
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cpcctl.config import document
from cpcctl.config import load as loader
from cpcctl.errors import CAUSE_MAX, MESSAGE_MAX, CpcError, quoted
from cpcctl.host.files import FileTooLarge, read_all, read_end
from cpcctl.jobs.store import JOB_MAX, JobStore
from cpcctl.vm import spec as specs

TOP = Path(__file__).parents[2]
MANY_DIGITS = 10_000
# Each level stands for two of the one before it.
NESTED = "a0: &a0 [x, x]\n" + "".join(
    f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 9)
) + "name: *a8\nmemory: 128M\n"


@pytest.fixture
def peak() -> Iterator[Callable[[], int]]:
    """Bytes that were in use at most since the test began."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


def test_no_alias_stands_for_more_than_it_says(peak: Callable[[], int]) -> None:
    with pytest.raises(CpcError) as caught:
        document.parse(NESTED.encode(), "f.yaml")
    assert caught.value.message == (
        "f.yaml: the alias '*a0' in line 2: write out what it stands for"
    )
    assert peak() < 2 << 20


def test_an_anchor_alone_is_harmless() -> None:
    assert document.parse(b"a: &b 1\n", "f") == {"a": "1"}


@pytest.mark.parametrize(
    "text",
    [
        "name: t\nmemory: [" + "[], " * 10_000 + "]\n",
        "name: t\nmemory: 0x" + "f" * MANY_DIGITS + "\n",
        "name: " + "n" * 50_000 + "\nmemory: 128M\n",
        "name: t\nmemory: 128M\n" + "k" * 50_000 + ": 1\n",
        "name: t\nmemory: 128M\n0x" + "f" * MANY_DIGITS + ": 1\n",
        "name: t\nmemory: 128M\ndisks: [{path: /d, format: raw, cache: '" + "x" * 50_000 + "'}]\n",
    ],
    ids=["list", "number", "name", "key", "number-as-key", "in-a-list"],
)  # fmt: skip
def test_values_are_quoted_in_short(text: str) -> None:
    with pytest.raises(CpcError) as caught:
        specs.read(document.parse(text.encode(), "f.yaml"), "f.yaml")
    assert caught.value.exit_code == 2
    assert len(caught.value.message) <= 300


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "'a'"),
        (1, "1"),
        (True, "True"),
        (1 << 100_000, "a number of many digits"),
        ([["x"] * 9] * 9, None),
        ("'" * 100_000, None),
        ({"k" * 1000: "v" * 1000}, None),
        (bytes(100_000), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_quoting(value: object, text: str | None) -> None:
    found = quoted(value)
    assert len(found) <= 250
    assert text is None or found == text


def test_an_error_is_never_longer_than_a_page() -> None:
    error = CpcError("m" * 100_000, cause="c\n" * 100_000, hint="h" * 100_000)
    assert len(error.render()) < 2 * (MESSAGE_MAX + CAUSE_MAX) + 4 * CAUSE_MAX
    assert len(error.message) < 2 * MESSAGE_MAX
    assert len(str(error.hint)) < 2 * MESSAGE_MAX


def test_no_error_quotes_a_value_as_long_as_it_is() -> None:
    """errors.quoted() instead of !r and repr()."""
    found = []
    for path in sorted((TOP / "cpcctl").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            as_written = isinstance(node, ast.FormattedValue) and node.conversion == ord("r")
            called = isinstance(node, ast.Call) and ast.unparse(node.func) == "repr"
            if as_written or called:
                found.append(f"{path.relative_to(TOP)}:{node.lineno}")  # type: ignore[attr-defined]
    assert found == []


def test_files_larger_than_they_can_be(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"12345")
    assert read_all(path, 5) == b"12345"
    with pytest.raises(FileTooLarge, match="larger than 4 bytes"):
        read_all(path, 4)
    assert (read_end(path, 2), read_end(path, 99)) == (b"45", b"12345")


def test_a_definition_that_is_too_long(tmp_path: Path) -> None:
    path = tmp_path / "vm.yaml"
    path.write_text("# " + "x" * specs.FILE_LIMIT)
    with pytest.raises(CpcError, match="is too long"):
        specs.load(path)


def test_a_configuration_that_is_too_long_or_a_fifo(tmp_path: Path) -> None:
    folder = tmp_path / "cpcctl"
    folder.mkdir()
    env = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    (folder / "config.yaml").write_text("# " + "x" * loader.FILE_LIMIT)
    with pytest.raises(CpcError) as caught:
        loader.load({}, env)
    assert "it is larger than" in str(caught.value.cause)
    (folder / "config.yaml").unlink()
    os.mkfifo(folder / "config.yaml")
    with pytest.raises(CpcError) as caught:
        loader.load({}, env)
    assert "it is a FIFO" in str(caught.value.cause)


def test_a_job_file_that_is_too_long(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    job = store.create("migrate", "a", "h")
    (tmp_path / f"{job.id}.json").write_bytes(b"[" + b"[]," * JOB_MAX)
    with pytest.raises(CpcError) as caught:
        store.load(job.id)
    assert caught.value.exit_code == 5
    assert "it is larger than" in str(caught.value.cause)
