# SPDX-License-Identifier: Apache-2.0
"""What our reading of image headers says against what QEMU makes of them."""

from __future__ import annotations

import json
import os
import random
import re
import secrets
import struct
from pathlib import Path
from typing import Any

import pytest
import yaml

from cpcctl.config.settings import Settings
from cpcctl.host import find
from cpcctl.host.qmp import Qmp, QmpError
from cpcctl.qemu import qcow2
from cpcctl.qemu.qcow2 import Header, Malformed
from cpcctl.vm import lifecycle, spec
from tests import printed as printed_command
from tests import qcow2 as made
from tests.one_host import command_line

NAMES = ("data", "base", "base.qcow2")
SEEDS = (
    made.header(), made.header(version=2), made.header("base", "raw"),
    made.header("base", None, version=2), made.header("base.qcow2", "qcow2"),
    made.header("base", "raw", "data"), made.header(data_file="data"),
)  # fmt: skip
INTERESTING = (0, 1, 2, 3, 7, 8, 9, 16, 72, 96, 103, 104, 112, 127, 128, 255, 1 << 16, 1 << 31)


def mutated(dice: random.Random) -> bytes:
    """A header with a few bytes or a field changed, or with its end cut off."""
    data = bytearray(dice.choice(SEEDS))
    for _ in range(dice.randint(1, 3)):
        at = dice.randrange(4, 200)
        match dice.randrange(3):
            case 0:
                data[at] = dice.randrange(256)
            case 1:
                struct.pack_into(">I", data, at & ~3, dice.choice(INTERESTING))
            case 2:
                struct.pack_into(">Q", data, at & ~7, dice.choice(INTERESTING))
    cut = dice.randrange(200) if dice.random() < 0.2 else len(data)
    return bytes(data[:cut])


def as_qemu_sees_it(qmp: Qmp, path: Path, ours: Header) -> Header | None:
    """Opened as a VM would have it; None when QEMU refuses it.

    Nothing that the header names is followed: what QEMU would follow it says.
    """
    node: dict[str, Any] = {
        "driver": "qcow2", "node-name": "top", "read-only": True, "backing": None,
        "file": {"driver": "file", "filename": str(path)},
    }  # fmt: skip
    if ours.data_file is not None:
        node["data-file"] = "data"
    try:
        qmp.execute_raw("blockdev-add", node)
    except QmpError:
        return None
    try:
        nodes = qmp.execute("query-named-block-nodes")
    finally:
        qmp.execute_raw("blockdev-del", {"node-name": "top"})
    files = {node["file"] for node in nodes if node["drv"] == "file"}
    assert files == {str(path), str(path.with_name("data"))}, f"opened {files}"
    (top,) = (node for node in nodes if node["node-name"] == "top")
    image = top["image"]
    format_specific = image["format-specific"]["data"]
    apart = format_specific.get("data-file-raw") is not None and ours.data_file is not None
    return Header(
        image.get("backing-filename"),
        image.get("backing-filename-format") or None,
        format_specific.get("data-file") if apart else None,
    )


def shown(header: Header) -> Header:
    """As JSON can show it, where a byte that is no UTF-8 becomes some other text."""

    def text(name: str | None) -> str | None:
        return name if name is None or re.fullmatch(r"[ -~]*", name) else "unreadable"

    return Header(*map(text, (header.backing, header.backing_format, header.data_file)))


def compare(qmp: Qmp, folder: Path, rounds: int, dice: random.Random) -> tuple[int, int]:
    """How many mutants both understand, and how many of those name another file."""
    for name in NAMES:
        (folder / name).write_bytes(bytes(1 << 16))
    data = {"driver": "file", "filename": str(folder / "data"), "node-name": "data"}
    qmp.execute_raw("blockdev-add", data)
    path, understood, named = folder / "image", 0, 0
    for number in range(rounds):
        head = mutated(dice)
        path.write_bytes(head)
        with path.open("rb") as file:
            try:
                ours = qcow2.read(file.fileno())
            except Malformed:
                continue
        theirs = as_qemu_sees_it(qmp, path, ours)
        if theirs is None:
            continue
        # Of an image without a base QEMU does not tell the base's format.
        expected = ours if ours.backing is not None else Header(None, None, ours.data_file)
        assert shown(theirs) == shown(expected), f"mutant {number}: {head[:256].hex()}"
        understood += 1
        named += theirs != Header()
    return understood, named


def test_no_header_means_more_to_qemu_than_to_us(built: Any, tmp_path: Path) -> None:
    dice = random.Random(0)
    understood, named = find.ask(
        built.qemu, built.qemu_data, lambda qmp: compare(qmp, tmp_path, 800, dice)
    )
    assert understood > 200
    assert named > 100


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_many_headers(built: Any, tmp_path: Path) -> None:
    seed = secrets.randbits(64)
    print(f"seed {seed}")
    understood, _ = find.ask(
        built.qemu, built.qemu_data,
        lambda qmp: compare(qmp, tmp_path, 50_000, random.Random(seed)),
    )  # fmt: skip
    assert understood > 10_000


@pytest.mark.parametrize("length", [20, 71, 72, 103, 104, 150])
def test_a_file_shorter_than_its_header(built: Any, tmp_path: Path, length: int) -> None:
    """QEMU fills it up with zeros, and would open the base: here it is refused."""
    data = bytearray(made.header("/etc/hostname", "raw", version=2))
    struct.pack_into(">QI", data, 8, 4, 2)  # a name made of the version's bytes
    path = tmp_path / "image"
    path.write_bytes(data[:length])
    with path.open("rb") as file, pytest.raises(Malformed):
        qcow2.read(file.fileno())


def test_a_vm_has_the_nodes_that_it_was_given(
    built: Any, place: Settings, tmp_path: Path
) -> None:
    """An image with a base, a base of that, and its data elsewhere."""
    for name in ("raw", "data"):
        (tmp_path / name).write_bytes(bytes(1 << 20))
    made.write(tmp_path / "base", "raw", "raw")
    (tmp_path / "top").write_bytes(made.header("base", "qcow2", str(tmp_path / "data")))
    document = {
        "name": "a", "memory": "64M", "hvcpus": 0,
        "disks": [{"path": str(tmp_path / "top"), "cache": "writeback"}],
    }
    path = tmp_path / "vm.yaml"
    path.write_text(yaml.safe_dump(document))
    vm = lifecycle.start(place, spec.load(path))
    with vm.qmp() as qmp:
        nodes = {node["node-name"]: node for node in qmp.execute("query-named-block-nodes")}
        sets = {entry["fds"][0]["opaque"] for entry in qmp.execute("query-fdsets")}
    assert sorted(nodes) == [
        "disk0", "disk0-base1", "disk0-base1-file", "disk0-base2", "disk0-base2-file",
        "disk0-data", "disk0-file",
    ]  # fmt: skip
    assert {name for name, node in nodes.items() if not node["ro"]} == {
        "disk0", "disk0-file", "disk0-data",
    }
    assert all(n["file"].startswith(("/dev/fdset/", "json:")) for n in nodes.values()), nodes
    assert sets == {str(tmp_path / name) for name in ("top", "data", "base", "raw")}
    opened = {
        os.path.realpath(entry) for entry in Path(f"/proc/{vm.process.pid}/fd").iterdir()
    }
    assert {str(tmp_path / name) for name in ("top", "data", "base", "raw")} <= opened


def test_the_printed_command_is_the_one_used(
    built: Any, place: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = {
        "name": "a", "memory": "128M", "kernel": str(built.vmlinuz),
        "initrd": str(built.tiny_initrd),
    }
    path = tmp_path / "vm.yaml"
    path.write_text(yaml.safe_dump(document))
    code, out, _ = command_line(capsys)(
        "vm", "start", "--print-command", str(path), "--format", "json"
    )
    assert code == 0
    assert not (place.run_dir / "vms").exists()
    used = lifecycle.start(place, spec.load(path)).argv
    printed = json.loads(out)["argv"]
    printed_command.check(used, printed)
    assert sum(word.startswith("/proc/self/fd/") for word in used) == 2
