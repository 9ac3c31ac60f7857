# SPDX-License-Identifier: Apache-2.0
"""The store shows only what is complete."""

from __future__ import annotations

from pathlib import Path

import pytest

from cpcctl.setup import packages, store


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CPC_CACHE", str(tmp_path))
    return tmp_path


def test_built_once_and_linked(own_store: Path) -> None:
    calls = []

    def build(folder: Path) -> None:
        calls.append(folder)
        (folder / "it").write_text("built")

    for _ in range(2):
        store.provide("thing", "k1", build)
    assert len(calls) == 1
    assert (own_store / "current/thing/it").read_text() == "built"
    store.provide("thing", "k2", build)
    assert (own_store / "current/thing").resolve().name == "thing-k2"


def test_a_failed_build_leaves_what_was_in_use(own_store: Path) -> None:
    store.provide("thing", "k1", lambda folder: (folder / "it").touch())

    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        store.provide("thing", "k2", fail)
    assert (own_store / "current/thing").resolve().name == "thing-k1"
    assert not (own_store / "thing-k2").exists()


def test_key_tells_texts_and_files_apart(tmp_path: Path) -> None:
    one = tmp_path / "a"
    one.write_text("x")
    keys = {store.key(["ab", "c"]), store.key(["a", "bc"]), store.key(["ab"], [one])}
    assert len(keys) == 3


def test_without_root_the_command_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(packages, "missing", lambda: ["gcc", "patch"])
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert packages.main() == 2
    assert "sudo apt-get install -y --no-install-recommends gcc patch" in capsys.readouterr().err
