# SPDX-License-Identifier: Apache-2.0
"""Compiles the C header and compares every constant, size and offset."""

from __future__ import annotations

import ctypes
import re
import subprocess
from pathlib import Path

import pytest

from cpcctl import abi, abi_status

HEADER = Path(__file__).parents[2] / "guest-agent" / "abi" / "cpc_abi.h"
COMMENT = re.compile(r"/\*.*?\*/", re.S)
TEXT = COMMENT.sub(" ", HEADER.read_text())
CONSTANTS = re.findall(r"^#define\s+(CPC_\w+)[ \t]+\S", TEXT, re.M)
MACROS = re.findall(r"^#define\s+(CPC_\w+)\(", TEXT, re.M)
STRUCTS = {
    name: re.findall(r"(\w+)(?:\[[^;]*)?;", body)
    for name, body in re.findall(r"^struct (cpc_\w+) \{(.*?)^\};", TEXT, re.M | re.S)
}
SAMPLES = {
    "CPC_OP": (1, 14),
    "CPC_SUITE_BIT": (4,),
    "CPC_MAX_PAGES": (2 << 30,),
    "CPC_TABLES_BYTES": (655360, 16),
    "CPC_ADDRESS": (31, 0xFFFFFFFFFF),
    "CPC_ADDRESS_REGION": (abi.ADDRESS(7, 123),),
    "CPC_ADDRESS_PAGE": (abi.ADDRESS(7, 123),),
}


def python_class(name: str) -> type[ctypes.Structure]:
    """cpc_shm_header is ShmHeader."""
    found: type[ctypes.Structure] = getattr(
        abi, "".join(part.title() for part in name.split("_")[1:])
    )
    assert issubclass(found, ctypes.Structure)
    return found


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Every number of the header as the C compiler sees it."""
    lines = [f'P("{name}", {name});' for name in CONSTANTS]
    for name, arguments in SAMPLES.items():
        values = ", ".join(f"{value}ull" for value in arguments)
        lines.append(f'P("{name}()", {name}({values}));')
    for name, fields in STRUCTS.items():
        lines.append(f'P("{name}", sizeof(struct {name}));')
        lines += [
            f'P("{name}.{field}", offsetof(struct {name}, {field}));'
            f'P("{name}.{field}#", sizeof(((struct {name} *)0)->{field}));'
            for field in fields
        ]
    folder = tmp_path_factory.mktemp("abi")
    source = folder / "dump.c"
    source.write_text(
        "#include <stddef.h>\n#include <stdio.h>\n#include <stdint.h>\n"
        f'#include "{HEADER}"\n'
        '#define P(n, v) printf("%s %llu\\n", n, (unsigned long long)(v))\n'
        "int main(void) {\n" + "\n".join(lines) + "\nreturn 0; }\n"
    )
    subprocess.run(
        ["cc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-o", folder / "dump", source],
        check=True,
    )
    text = subprocess.run([folder / "dump"], check=True, capture_output=True, text=True).stdout
    return {name: int(value) for name, value in (line.split() for line in text.splitlines())}


def test_the_parser_sees_the_header() -> None:
    assert len(CONSTANTS) > 150
    assert len(STRUCTS) > 12
    assert all(STRUCTS.values())


@pytest.mark.parametrize("name", CONSTANTS)
def test_constant(name: str, measured: dict[str, int]) -> None:
    assert getattr(abi, name.removeprefix("CPC_")) == measured[name]


@pytest.mark.parametrize("name", MACROS)
def test_macro(name: str, measured: dict[str, int]) -> None:
    mirror = getattr(abi, name.removeprefix("CPC_"))
    assert mirror(*SAMPLES[name]) == measured[f"{name}()"]


@pytest.mark.parametrize("name", STRUCTS)
def test_struct(name: str, measured: dict[str, int]) -> None:
    mirror = python_class(name)
    assert ctypes.sizeof(mirror) == measured[name]
    assert [field[0] for field in mirror._fields_] == STRUCTS[name]
    for field in STRUCTS[name]:
        assert getattr(mirror, field).offset == measured[f"{name}.{field}"], field
        assert getattr(mirror, field).size == measured[f"{name}.{field}#"], field


def test_nothing_in_the_mirror_is_unknown_to_the_header() -> None:
    known = {name.removeprefix("CPC_") for name in CONSTANTS + MACROS}
    mirrored = {name for name in vars(abi) if name.isupper()}
    assert mirrored == known


def test_every_status_has_a_sentence() -> None:
    statuses = {value for name, value in vars(abi).items() if name.startswith("S_")}
    assert set(abi_status.SENTENCES) == statuses
    assert abi_status.describe(310) == "WIRE_TAG (310): a record was altered"
    assert "999" in abi_status.describe(999)


def test_suites_of_a_mask() -> None:
    assert abi_status.suites(0b110) == ["aegis-128l", "aegis-128x2"]
    assert abi_status.suites(0) == []
