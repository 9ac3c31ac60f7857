# SPDX-License-Identifier: Apache-2.0
"""Each checkout has an environment of its own, which imports that checkout."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from cpcctl.setup import store, venv


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CPC_CACHE", str(tmp_path / "store"))
    monkeypatch.setattr("sys.argv", ["venv"])
    return tmp_path / "store"


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What gets built, without what comes from the network."""
    calls: list[Path] = []

    def build(folder: Path) -> None:
        calls.append(folder)
        environment(folder, venv.TOP)

    monkeypatch.setattr(venv, "build", build)
    return calls


def environment(folder: Path, checkout: Path | None) -> None:
    """A real environment that imports cpcctl from that checkout."""
    subprocess.run([venv.PYTHON, "-m", "venv", "--without-pip", str(folder)], check=True)
    if checkout:
        site = next(folder.glob("lib/python3*/site-packages"))
        (site / "checkout.pth").write_text(f"{checkout}\n")


def other_checkout(folder: Path) -> Path:
    """As much of a checkout as the environment is made from."""
    for path in ("setup.cfg", "pyproject.toml", "tests/constraints.txt", "cpcctl/__init__.py"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(venv.TOP / path, folder / path)
    return folder


def mine() -> Path:
    """Where this checkout's environment is."""
    return store.place("venv", venv.recipe_key())


def test_what_is_right_is_built_once(built: list[Path]) -> None:
    assert (venv.main(), venv.main()) == (0, 0)
    assert len(built) == 1
    assert venv.imported(mine()) == venv.TOP
    assert store.current("venv").resolve() == mine().resolve()


def remove_python(folder: Path) -> None:
    """As when the system's Python was replaced by another version."""
    for path in folder.glob("bin/python*"):
        path.unlink()


@pytest.mark.parametrize("wrong", ["another", "removed", "none", "broken"])
def test_an_environment_that_imports_another_checkout_is_made_anew(
    wrong: str, built: list[Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other = other_checkout(tmp_path / "other")
    imports = {"another": other, "removed": tmp_path / "gone", "none": None, "broken": venv.TOP}
    environment(mine(), imports[wrong])
    if wrong == "broken":
        remove_python(mine())
    assert venv.imported(mine()) == (other if wrong == "another" else None)
    assert venv.main() == 0
    assert len(built) == 1
    assert "it is made anew" in capfd.readouterr().err
    assert venv.imported(mine()) == venv.TOP


def test_an_environment_in_a_store_that_was_moved_is_made_anew(
    own_store: Path, built: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Its scripts would run the Python of the old place, or none."""
    environment(mine(), venv.TOP)
    assert venv.main() == 0
    assert built == []
    own_store.rename(tmp_path / "new")
    monkeypatch.setenv("CPC_CACHE", str(tmp_path / "new"))
    assert venv.main() == 0
    assert len(built) == 1
    assert "was made in another place; it is made anew" in capfd.readouterr().err


def test_another_checkout_leaves_ours_alone(
    built: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert venv.main() == 0
    ours, this = mine(), venv.TOP
    other = other_checkout(tmp_path / "other")
    with monkeypatch.context() as there:
        there.setattr(venv, "TOP", other)
        there.setattr(venv, "CONSTRAINTS", other / "tests/constraints.txt")
        assert venv.main() == 0
        assert mine() != ours
        assert venv.imported(mine()) == other
    assert venv.imported(ours) == this
    monkeypatch.setattr("sys.argv", ["venv", "--print"])
    assert venv.main() == 0
    assert capsys.readouterr().out == f"{ours}\n"
    assert len(built) == 2


def test_make_runs_the_environment_of_its_own_checkout(own_store: Path) -> None:
    """And none through the link that another checkout moves."""
    done = subprocess.run(
        ["make", "-n", "lint"], cwd=venv.TOP, capture_output=True, text=True, check=True
    )
    assert f"{mine()}/bin/python -m pytest tests/lint" in done.stdout
    assert "current/venv" not in (venv.TOP / "Makefile").read_text()
    assert not own_store.exists()


@pytest.mark.parametrize("there", [True, False])
def test_tests_do_not_run_in_another_checkouts_environment(there: bool, tmp_path: Path) -> None:
    """Which the link is, by hand, after that one was set up; it may be gone by now."""
    other = other_checkout(tmp_path / "other") if there else tmp_path / "gone"
    environment(tmp_path / "env", other)
    site = next((tmp_path / "env").glob("lib/python3*/site-packages"))
    (site / "pytest.pth").write_text(f"{Path(pytest.__file__).parents[1]}\n")
    done = subprocess.run(
        [tmp_path / "env/bin/python", "-m", "pytest", "--collect-only", "tests/setup"],
        cwd=venv.TOP, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    has = other if there else "no"
    assert f"{tmp_path}/env has {has}/cpcctl; run here: make venv" in done.stderr
