# SPDX-License-Identifier: Apache-2.0
"""Completion scripts and the man page come from the table of verbs."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from cpcctl.cli import completion, man
from cpcctl.cli.tree import nodes
from cpcctl.cli.verbs import VERBS


def complete(*words: str) -> set[str]:
    """What bash offers for the last word."""
    script = completion.bash(nodes())
    line = " ".join(f"'{word}'" for word in ("cpcctl", *words))
    script += f'COMP_WORDS=({line}); COMP_CWORD={len(words)}; _cpcctl; echo "${{COMPREPLY[*]}}"'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("mig",), {"migrate"}),
        (("vm", "st"), {"start", "stop", "status"}),
        (("vm", "stop", "--fo"), {"--force", "--format"}),
        (("vm", "list", "--format", ""), {"text", "json"}),
        (("--format", "json", "vm", "l"), {"list"}),
        (("completion", "f"), {"fish"}),
    ],
)
def test_bash(words: tuple[str, ...], offered: set[str]) -> None:
    assert complete(*words) == offered


def test_every_verb_is_everywhere() -> None:
    tree = nodes()
    assert {node.path for node in tree} >= {verb.path for verb in VERBS}
    for make in (completion.bash, completion.zsh, completion.fish, man.page):
        text = make(tree)
        for verb in VERBS:
            assert verb.path.split()[-1] in text


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_accept_their_script(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    script = completion.SCRIPTS[shell](nodes())
    subprocess.run([shell, "-n", "/dev/stdin"], input=script, text=True, check=True)


def test_the_page_in_docs_is_current() -> None:
    """If not: python3 -m cpcctl.cli.man > docs/man/cpcctl.1"""
    written = Path(__file__).parents[2] / "docs" / "man" / "cpcctl.1"
    assert written.read_text() == man.page(nodes())


def test_readme_and_man_page_agree_on_exit_codes() -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", text, re.MULTILINE)
    assert [(int(code), words) for code, words in rows] == list(man.EXITS)


def test_the_man_page_has_every_flag_and_exit_code() -> None:
    text = man.page(nodes())
    for flag in ("\\-\\-format", "\\-\\-max\\-downtime", "\\-\\-force"):
        assert flag in text
    for code, _ in man.EXITS:
        assert f".B {code}\n" in text
    if shutil.which("man"):
        done = subprocess.run(
            ["man", "--warnings", "-l", "-"], input=text, capture_output=True, text=True,
            check=True, env={"MANPAGER": "cat", "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        )
        assert done.stderr == ""
