# SPDX-License-Identifier: Apache-2.0
"""A damaged process.json of one VM is said so, and hides no other VM."""

from __future__ import annotations

from pathlib import Path

import pytest

from cpcctl.config.load import load
from cpcctl.errors import CpcError, ExitCode
from cpcctl.host.state import Folders
from cpcctl.vm import lifecycle


@pytest.mark.parametrize(
    "text",
    [
        '{"pid": 1e999, "started": 1, "argv": []}', '{"pid": 1, "started": 1e999, "argv": []}',
        '{"pid": NaN, "started": 1, "argv": []}', "[" * 200_000, '{"pid": -1}',
        '{"pid": 4294967297, "started": 1, "argv": []}', "{}", "[]", "\xff",
        '{"pid": ' + "9" * 5000 + "}",
    ],
)
def test_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    for name in ("STATE_DIR", "RUN_DIR"):
        monkeypatch.setenv(f"CPCCTL_{name}", str(tmp_path / name))
    settings = load({})
    for name in ("good", "bad"):
        paths = Folders.of(settings).vm(name)
        paths.state.mkdir(parents=True)
        paths.run.mkdir(parents=True)
        paths.definition.write_text(f"name: {name}\nmemory: 64M\n")
        if name == "good":
            paths.life.touch()
    paths.process.write_text(text, encoding="latin-1")
    with pytest.raises(CpcError) as caught:
        lifecycle.attach(settings, "bad")
    assert caught.value.exit_code is ExitCode.UNPROVEN
    assert lifecycle.status(settings, "bad")["state"] == "unreachable"
    assert {vm["name"]: vm["state"] for vm in lifecycle.list_all(settings)} == {
        "good": "stopped", "bad": "unreachable",
    }
