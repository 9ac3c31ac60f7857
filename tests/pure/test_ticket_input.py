# SPDX-License-Identifier: Apache-2.0
"""Where `migrate` takes its ticket from."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from cpcctl.errors import CpcError
from cpcctl.link.ticket import Ticket
from cpcctl.migrate.cli import read_ticket
from cpcctl.ui.context import Context
from cpcctl.ui.output import Output

TICKET = Ticket("host-b", 5000, bytes(range(32)), bytes(range(32, 64)))


class Terminal(io.StringIO):
    """A stdin that somebody types into."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    """A command whose stderr can be read."""
    from cpcctl.config.load import load

    settings = load({"state_dir": str(tmp_path / "s"), "run_dir": str(tmp_path / "r")})
    return Context(settings, Output("text", io.StringIO(), io.StringIO()))


def said(ctx: Context) -> str:
    assert isinstance(ctx.out.stderr, io.StringIO)
    return ctx.out.stderr.getvalue()


def test_from_stdin(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(TICKET.text() + "\nmore\n"))
    assert read_ticket("a", "-", None, ctx) == TICKET
    assert said(ctx) == ""


def test_a_terminal_is_told_what_is_wanted(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(TICKET.text() + "\n"))
    assert read_ticket("a", "-", None, ctx) == TICKET
    assert said(ctx) == "paste the ticket that `cpcctl receive` printed:\n"


def test_a_long_line_is_not_read_to_its_end(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    stdin = io.StringIO("x" * 100_000)
    monkeypatch.setattr("sys.stdin", stdin)
    with pytest.raises(CpcError, match="it is too long"):
        read_ticket("a", "-", None, ctx)
    assert stdin.tell() < 1000


def test_from_a_file(ctx: Context, tmp_path: Path) -> None:
    (tmp_path / "t").write_text(TICKET.text() + "\n")
    assert read_ticket("a", None, str(tmp_path / "t"), ctx) == TICKET
    assert said(ctx) == ""


def test_files_that_hold_none(ctx: Context, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "big").write_bytes(b"\xff" * 100_000)
    for name, words in (
        ("none", "No such file"), ("fifo", "it is a FIFO"), ("big", "it is too long"),
    ):  # fmt: skip
        with pytest.raises(CpcError) as caught:
            read_ticket("a", None, str(tmp_path / name), ctx)
        assert caught.value.exit_code == 2
        assert words in caught.value.render()


def test_from_the_command_line_with_a_warning(ctx: Context) -> None:
    assert read_ticket("a", TICKET.text(), None, ctx) == TICKET
    assert said(ctx) == (
        "warning: every user of this host can see a ticket in a command line; "
        "better: cpcctl migrate a -\n"
    )


@pytest.mark.parametrize(
    ("word", "file", "words"), [(None, None, "no ticket"), ("-", "f", "two tickets")]
)
def test_exactly_one(ctx: Context, word: str | None, file: str | None, words: str) -> None:
    with pytest.raises(CpcError, match=words) as caught:
        read_ticket("a", word, file, ctx)
    assert caught.value.exit_code == 2
    assert "cpcctl migrate a -" in str(caught.value.hint)
