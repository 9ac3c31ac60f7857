# SPDX-License-Identifier: Apache-2.0
"""cpcctl version."""

from __future__ import annotations

import argparse

from cpcctl import __version__, abi
from cpcctl.accel import memory
from cpcctl.errors import CpcError
from cpcctl.host import find
from cpcctl.ui.context import Context
from cpcctl.ui.output import pairs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """version has no arguments."""


def run(args: argparse.Namespace, ctx: Context) -> int:
    """Show every part's version; what is missing, or not known yet, is null."""
    found: dict[str, object] = {
        "cpcctl": __version__,
        "abi": abi.ABI_VERSION,
        "wire": abi.WIRE_VERSION,
        "qemu": None,
        "qemu_patched": None,
        "firmware": None,
        "accel": memory.known(ctx.settings),
    }
    try:
        binary = find.qemu_binary(ctx.settings)
        qemu = find.probe(binary, find.qemu_data(ctx.settings, binary))
        found["qemu"] = qemu.version
        found["qemu_patched"] = not qemu.missing
    except CpcError as error:
        ctx.out.note(f"qemu: {error.message}")
    try:
        found["firmware"] = find.firmware_version(find.firmware_image(ctx.settings))
    except CpcError as error:
        ctx.out.note(f"firmware: {error.message}")
    words = {"None": "-", "True": "yes", "False": "no"}
    ctx.out.result(found, pairs((name, words.get(str(v), v)) for name, v in found.items()))
    return 0
