# SPDX-License-Identifier: Apache-2.0
"""Linters as tests: style, types, shell, licences, sizes."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
LONGEST = 500
# Texts that carry no licence line of their own.
BARE = {"LICENSE", "COPYING", ".gitignore"}
BARE_FOLDERS = {"LICENSES", "golden"}
BARE_SUFFIXES = {".patch", ".svg", ".json", ".1"}


def tracked() -> list[Path]:
    """Files under version control, and new ones that are not ignored."""
    out = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=TOP,
        capture_output=True,
        check=True,
    ).stdout.decode()
    return sorted({TOP / name for name in out.split("\0") if name and (TOP / name).is_file()})


def run(*argv: str) -> None:
    """A linter; its own words when it finds something."""
    done = subprocess.run(argv, cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff() -> None:
    run(sys.executable, "-m", "ruff", "check", "--no-cache", ".")


def test_types() -> None:
    run(sys.executable, "-m", "mypy", "--strict", "cpcctl")


def test_types_of_tests() -> None:
    files = [str(p) for p in tracked() if p.suffix == ".py" and p.is_relative_to(TOP / "tests")]
    # One at a time by name: test files of different folders may share one.
    run(sys.executable, "-m", "mypy", "--strict", "--scripts-are-modules",
        "--explicit-package-bases", "--namespace-packages", *files)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shell() -> None:
    scripts = [
        p for p in tracked()
        if p.suffix == ".sh" or p.read_bytes()[:40].startswith((b"#!/bin/sh", b"#!/usr/bin/env b"))
    ]
    run("shellcheck", "-x", *[str(p) for p in scripts])


def test_every_file_names_its_licence() -> None:
    lacking = []
    for path in tracked():
        if path.parent.name in BARE_FOLDERS or path.name in BARE or path.suffix in BARE_SUFFIXES:
            continue
        head = path.read_bytes()[:400]
        if head and b"SPDX-License-Identifier: " not in head:
            lacking.append(str(path.relative_to(TOP)))
    assert not lacking, f"no SPDX line: {lacking}"


def test_no_file_is_too_long() -> None:
    long = {}
    for path in tracked():
        if path.suffix in (".py", ".c", ".h", ".S", ".sh"):
            count = len(path.read_bytes().splitlines())
            if count > LONGEST and path.name != "cpc_abi.h":
                long[str(path.relative_to(TOP))] = count
    assert not long, f"longer than {LONGEST} lines: {long}"


def test_documents_name_files_that_exist() -> None:
    """Every relative link in a document leads somewhere."""
    broken = []
    for path in tracked():
        if path.suffix != ".md":
            continue
        for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", path.read_text()):
            if not (path.parent / link).exists():
                broken.append(f"{path.relative_to(TOP)}: {link}")
    assert not broken, broken


def test_readme_names_goals_that_exist() -> None:
    goals = re.findall(r"^([a-z-]+):", (TOP / "Makefile").read_text(), re.M)
    # As a command: at the start of an indented line, or between backquotes.
    named_goals = re.findall(
        r"(?:^    |`)(?:\S+=\S+ )?make ([a-z][a-z-]+)", (TOP / "README.md").read_text(), re.M
    )
    assert {"demo", "test", "bench"} <= set(named_goals)
    for named in named_goals:
        assert named in goals, f"README: make {named}"
