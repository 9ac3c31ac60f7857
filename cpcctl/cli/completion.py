# SPDX-License-Identifier: Apache-2.0
"""cpcctl completion: scripts for bash, zsh and fish from the table of verbs."""

from __future__ import annotations

import argparse
import shlex

from cpcctl.cli.tree import Node, nodes
from cpcctl.ui.context import Context


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of completion."""
    parser.add_argument("shell", choices=sorted(SCRIPTS), help="which shell")


def run(args: argparse.Namespace, ctx: Context) -> int:
    """Print a script to source."""
    script = SCRIPTS[args.shell](nodes())
    ctx.out.result({"shell": args.shell, "script": script}, script.rstrip("\n"))
    return 0


def _words(node: Node) -> list[str]:
    """What may come next after a node: verbs, or flags and fixed values."""
    words = list(node.verbs)
    for action in node.actions:
        words += action.option_strings
        if not action.option_strings and action.choices:
            words += [str(choice) for choice in action.choices]
    return words


def _values(tree: list[Node]) -> dict[str, list[str]]:
    """Flags that take one of a few values."""
    return {
        flag: [str(choice) for choice in action.choices]
        for node in tree
        for action in node.actions
        for flag in action.option_strings
        if action.choices
    }


def bash(tree: list[Node]) -> str:
    """For bash: words are looked up by the path typed so far."""
    cases = "\n".join(
        f"        {shlex.quote(node.path)}) words={shlex.quote(' '.join(_words(node)))} ;;"
        for node in tree
    )
    values = "\n".join(
        f"        {flag}) COMPREPLY=($(compgen -W {shlex.quote(' '.join(v))} -- \"$word\")); "
        "return ;;"
        for flag, v in sorted(_values(tree).items())
    )
    paths = " ".join(shlex.quote(node.path) for node in tree if node.path)
    return f"""# bash completion for cpcctl
_cpcctl() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}}
    local path='' try words='' i known
    for ((i = 1; i < COMP_CWORD; i++)); do
        try="${{path:+$path }}${{COMP_WORDS[i]}}"
        for known in {paths}; do
            if [[ $known == "$try" ]]; then path=$try; fi
        done
    done
    case $before in
{values}
    esac
    case $path in
{cases}
    esac
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _cpcctl cpcctl
"""


def zsh(tree: list[Node]) -> str:
    """For zsh: its bash emulation runs the same function."""
    return "#compdef cpcctl\nautoload -U +X bashcompinit && bashcompinit\n" + bash(tree)


def fish(tree: list[Node]) -> str:
    """For fish: one line a word."""
    lines = ["# fish completion for cpcctl", "complete -c cpcctl -f"]
    for node in tree:
        seen = [f"__fish_seen_subcommand_from {word}" for word in node.path.split()]
        for name, text in node.verbs.items():
            others = " ".join(node.verbs)
            rule = " && ".join([*seen, f"not __fish_seen_subcommand_from {others}"])
            lines.append(f"complete -c cpcctl -n {_q(rule)} -a {name} -d {_q(text)}")
        for action in node.actions:
            for flag in action.option_strings:
                if not flag.startswith("--"):
                    continue
                line = "complete -c cpcctl"
                if seen:
                    line += f" -n {_q(' && '.join(seen))}"
                line += f" -l {flag[2:]} -d {_q(str(action.help))}"
                if action.choices:
                    line += f" -x -a {_q(' '.join(str(choice) for choice in action.choices))}"
                elif action.nargs != 0:
                    line += " -r -F"
                lines.append(line)
    return "\n".join(lines) + "\n"


def _q(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


SCRIPTS = {"bash": bash, "zsh": zsh, "fish": fish}
