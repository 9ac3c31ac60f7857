# SPDX-License-Identifier: Apache-2.0
"""Settings: which source wins, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from cpcctl.config import load as loader
from cpcctl.config.patience import patient
from cpcctl.config.settings import NAMES, defaults, from_document
from cpcctl.errors import CpcError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user with nothing configured."""
    monkeypatch.setattr(loader, "SYSTEM_FILE", tmp_path / "etc.yaml")
    return tmp_path


def user_file(home: Path, text: str) -> dict[str, str]:
    path = home / "cfg" / "cpcctl" / "config.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return {"HOME": str(home), "XDG_CONFIG_HOME": str(home / "cfg")}


def test_flag_beats_environment_beats_user_beats_system(home: Path) -> None:
    env = user_file(home, "host: user\nqemu: /user\nfirmware: /user\n")
    (home / "etc.yaml").write_text("host: system\nqemu: /s\nfirmware: /s\nqemu_data: /s\n")
    env |= {"CPCCTL_QEMU": "/env", "CPCCTL_HOST": "env"}
    found = loader.load({"host": "flag", "format": None}, env)
    assert found.host == "flag"
    assert found.qemu == Path("/env")
    assert found.firmware == Path("/user")
    assert found.qemu_data == Path("/s")
    assert found.format == "text"


def test_an_empty_variable_is_unset(home: Path) -> None:
    assert loader.load({}, {"HOME": str(home), "CPCCTL_QEMU": ""}).qemu is None


def test_root_uses_the_system_folders() -> None:
    found = defaults({"HOME": "/root", "XDG_STATE_HOME": "/x"}, True, "h")
    assert (found["state_dir"], found["run_dir"]) == ("/var/lib/cpcctl", "/run/cpcctl")


def test_others_use_the_xdg_folders() -> None:
    found = defaults({"HOME": "/h"}, False, "h")
    assert found["state_dir"] == "/h/.local/state/cpcctl"
    assert found["run_dir"] == "/h/.local/state/cpcctl/run"
    assert found["cache_dir"] == "/h/.cache/cpc"
    env = {"HOME": "/h", "XDG_STATE_HOME": "/s", "XDG_RUNTIME_DIR": "/r", "CPC_CACHE": "/c"}
    found = defaults(env, False, "h")
    assert (found["state_dir"], found["run_dir"]) == ("/s/cpcctl", "/r/cpcctl")
    assert found["cache_dir"] == "/c"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hots: x", "unknown key 'hots'"),
        ("host: [1]", "host must be a string"),
        ("- a", "must be keys and values"),
        ("host: [", "is not valid YAML"),
        ("host: x\nformat: json\nhost: y\n", "key 'host' is given twice, again in line 3"),
        ("format: xml", "format must be one of text, json, not 'xml'"),
        ("progress: 3d", "progress must be one of"),
        ("accel: xen", "accel must be one of auto, tcg, kvm, not 'xen'"),
        ("[" * 5000, "is not valid YAML"),
    ],
)
def test_bad_files_are_refused(home: Path, text: str, words: str) -> None:
    with pytest.raises(CpcError) as caught:
        loader.load({}, user_file(home, text))
    assert words in caught.value.message
    assert caught.value.exit_code == 2


def test_the_nearest_key_is_suggested() -> None:
    with pytest.raises(CpcError) as caught:
        from_document({"hots": "x"}, "f")
    assert caught.value.hint == "did you mean 'host'?"
    assert "host" in NAMES


def test_an_empty_file_is_fine(home: Path) -> None:
    assert loader.load({}, user_file(home, "")).format == "text"


def test_where_the_verdict_on_kvm_is(home: Path) -> None:
    found = loader.load({}, {"HOME": str(home), "CPCCTL_ACCEL": "kvm"})
    assert (found.accel, found.kvm_verdict) == ("kvm", None)
    found = loader.load({}, {"HOME": str(home), "CPCCTL_KVM_VERDICT": "/v"})
    assert (found.accel, found.kvm_verdict) == ("auto", Path("/v"))


@pytest.mark.parametrize(("word", "factor"), [("", 1), ("1", 1), ("2.5", 2.5), ("0.1", 0.1)])
def test_patience(word: str, factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPCCTL_PATIENCE", word)
    assert patient(10.0) == 10.0 * factor


@pytest.mark.parametrize("word", ["0", "-1", "nan", "inf", "much", "1001"])
def test_patience_that_is_none(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPCCTL_PATIENCE", word)
    with pytest.raises(CpcError, match="CPCCTL_PATIENCE is a factor") as caught:
        patient(10.0)
    assert caught.value.exit_code == 2
    assert caught.value.hint == "unset CPCCTL_PATIENCE"
