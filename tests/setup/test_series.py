# SPDX-License-Identifier: Apache-2.0
"""The patch series applies without fuzz and survives a round trip."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
PATCHES = TOP / "patches" / "qemu"


def series() -> list[str]:
    lines = (PATCHES / "series").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def run(*argv: str | Path, **env: str) -> str:
    done = subprocess.run(
        [str(a) for a in argv], capture_output=True, text=True, check=False,
        env={**os.environ, **env},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked base."""
    found = Path(run(PATCHES / "fetch.sh").strip())
    if found.is_dir():
        pytest.skip("the source in use is a tree that may be patched already")
    tree = tmp_path_factory.mktemp("qemu") / "tree"
    tree.mkdir()
    run("tar", "-C", tree, "--strip-components=1", "-xf", found)
    return tree


def test_series_names_every_patch_once() -> None:
    assert sorted(series()) == sorted(p.name for p in PATCHES.glob("*.patch"))
    assert len(set(series())) == len(series())


def test_every_patch_says_why() -> None:
    for name in series():
        head = (PATCHES / name).read_text(errors="replace").split("\n---\n")[0].split("\ndiff ")[0]
        body = head.split("\n\n", 1)[1] if "\n\n" in head else ""
        assert len(body.split()) >= 10, f"{name}: its header does not say why"


def test_the_emulation_stands_alone() -> None:
    """The patches before the first one about hvCPUs are of use to whoever wants only those."""
    names = series()
    first = next(i for i, name in enumerate(names) if "hvCPUs" in name)
    alone = names[:first]
    assert any("guest-requests-and-reports" in name for name in alone)
    for name in alone:
        added = [
            line for line in (PATCHES / name).read_text(errors="replace").splitlines()
            if line.startswith("+") and re.search(r"hvcpu|\bcpc", line, re.I)
        ]  # fmt: skip
        assert not added, f"{name}: {added}"


@pytest.mark.slow
def test_applies_without_fuzz_and_refresh_gives_back_every_byte(
    source: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "git"
    run("cp", "-a", source, copy)
    # Without git: this is how it is built.
    run(PATCHES / "apply.sh", source)
    assert not list(source.rglob("*.rej")) and not list(source.rglob("*.orig"))
    # With git: this is how it is worked on.
    run(PATCHES / "apply.sh", "--git", copy)
    out = tmp_path / "out"
    out.mkdir()
    run(PATCHES / "refresh.sh", copy, out)
    for name in ["series", *series()]:
        assert (out / name).read_bytes() == (PATCHES / name).read_bytes(), name
    assert {p.name for p in out.iterdir()} == {"series", *series()}
    # Both ways lead to the same tree.
    run("diff", "-r", "--no-dereference", "-x", ".git", source, copy)


def test_a_patch_that_does_not_fit_is_named(tmp_path: Path) -> None:
    scripts = tmp_path / "series"
    scripts.mkdir()
    run("cp", PATCHES / "apply.sh", scripts)
    (scripts / "series").write_text("0001-wrong.patch\n")
    (scripts / "0001-wrong.patch").write_text(
        "--- a/VERSION\n+++ b/VERSION\n@@ -1,1 +1,1 @@\n-something else\n+anything\n"
    )
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "VERSION").write_text("10.0.99\n")
    done = subprocess.run(
        [scripts / "apply.sh", tree], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "0001-wrong.patch does not apply to QEMU 10.0.99 without fuzz" in done.stderr


def test_fetch_refuses_a_file_with_the_pinned_name_and_other_content(tmp_path: Path) -> None:
    pin = dict(
        line.split("=", 1)
        for line in (PATCHES / "base.pin").read_text().splitlines()
        if "=" in line and not line.startswith("#")
    )
    folder = tmp_path / "downloads" / "qemu"
    folder.mkdir(parents=True)
    (folder / pin["debian_orig"]).write_bytes(b"not it")
    done = subprocess.run(
        [PATCHES / "fetch.sh"], capture_output=True, text=True, check=False,
        env={**os.environ, "CPC_CACHE": str(tmp_path), "CPC_QEMU_SOURCE": ""},
    )
    assert done.returncode == 2
    assert "not the pinned checksum" in done.stderr


def test_fetch_takes_nothing_unverified(tmp_path: Path) -> None:
    """No apt that knows QEMU, and an archive that nobody vouched for: refused, with a way out."""
    folder = tmp_path / "downloads" / "qemu"
    folder.mkdir(parents=True)
    (folder / "qemu-10.0.13.tar.xz").write_bytes(b"from anywhere")
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "apt-get").symlink_to("/bin/false")
    done = subprocess.run(
        [PATCHES / "fetch.sh"], capture_output=True, text=True, check=False,
        env={**os.environ, "CPC_CACHE": str(tmp_path), "CPC_QEMU_SOURCE": "",
             "PATH": f"{tools}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert "CPC_QEMU_SOURCE=PATH make qemu" in done.stderr
    assert "http" not in (PATCHES / "fetch.sh").read_text() + (PATCHES / "base.pin").read_text()


def test_wheels_are_taken_by_checksum(tmp_path: Path) -> None:
    """pip refuses one whose checksum is not the one of the list."""
    lines = (PATCHES / "wheels.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z]+==[0-9.]+ --hash=sha256:[0-9a-f]{64}", pin) for pin in pins)
    assert '--require-hashes -r "$wheels"' in (PATCHES / "build.sh").read_text()
    changed = tmp_path / "wheels.txt"
    changed.write_text(pins[0][:-64] + "0" * 64 + "\n")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:",
         "--require-hashes", "-r", str(changed), "-d", str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert list(tmp_path.iterdir()) == [changed]


def test_fetch_names_a_local_source_that_is_not_there(tmp_path: Path) -> None:
    done = subprocess.run(
        [PATCHES / "fetch.sh"], capture_output=True, text=True, check=False,
        env={**os.environ, "CPC_QEMU_SOURCE": str(tmp_path / "none")},
    )
    assert done.returncode == 2
    assert "CPC_QEMU_SOURCE" in done.stderr


@pytest.mark.long
def test_each_patch_builds_alone(source: Path, tmp_path: Path) -> None:
    """Every prefix of the series compiles."""
    for count in range(1, len(series()) + 1):
        scripts = tmp_path / "patches" / "qemu"
        scripts.mkdir(parents=True, exist_ok=True)
        for path in PATCHES.iterdir():
            if path.is_file():
                run("cp", path, scripts)
        (scripts / "series").write_text("\n".join(series()[:count]) + "\n")
        for name in ("cpcctl", "guest-agent"):
            (tmp_path / name).unlink(missing_ok=True)
            (tmp_path / name).symlink_to(TOP / name)
        run(scripts / "build.sh", CPC_CACHE=str(tmp_path / "cache"),
            CPC_QEMU_SOURCE=run(PATCHES / "fetch.sh").strip())
