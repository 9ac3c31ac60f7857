# SPDX-License-Identifier: Apache-2.0
"""The series in builds that are not ours: without the emulation of SEV, and QEMU's own tests."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from cpcctl.setup import store
from tests.patience import patient
from tests.setup.test_series import PATCHES, run

BINARY = "qemu-system-x86_64"
# What calls the emulation, with what stands for it where there is none.
CALLERS = [
    "target/i386/helper.c", "target/i386/tcg/tcg-cpu.c", "target/i386/tcg/translate.c",
    "target/i386/tcg/sev/stub.c", "target/i386/tcg/system/bpt_helper.c",
    "target/i386/tcg/system/excp_helper.c", "target/i386/tcg/system/misc_helper.c",
    "target/i386/tcg/system/svm_helper.c", "target/i386/tcg/system/tcg-cpu.c",
    "hw/i386/cpc/cpc.c", "hw/i386/cpc/cpc-map.c", "hw/i386/cpc/cpc-platform.c",
    "hw/i386/cpc/cpc-tcg.c", "hw/i386/cpc/cpc-snp-stub.c",
]  # fmt: skip
EMULATION = r"libqemu-x86_64-softmmu\.a\.p/(?:target_i386_tcg_sev|hw_i386_cpc_cpc-snp)"
TESTS = ["cpc-test", "qmp-cmd-test", "sev-emulation-test"]
# As `build.sh` has them, but for the targets and for KVM.
OTHER = [
    "--target-list=i386-softmmu,x86_64-softmmu", "--without-default-features", "--enable-tcg",
    "--disable-kvm", "--enable-fdt=system", "--disable-docs", "--disable-install-blobs",
    "--disable-download",
]  # fmt: skip


@pytest.fixture(scope="module")
def tree() -> Iterator[Path]:
    """Where `make qemu` built what is current."""
    build = store.root() / "work/qemu/build"
    current = store.current("qemu") / "bin" / BINARY
    if not (build / BINARY).exists() or not current.exists():
        pytest.skip("QEMU was not built on this machine: its build folder is not there")
    yield build


def symbols(objects: Iterable[Path], undefined: bool) -> set[str]:
    """Names that object files need from elsewhere, or that they have."""
    kinds = "U" if undefined else "TDBRV"
    out = run("nm", *objects)
    return set(re.findall(rf"^[0-9a-f ]{{16}} [{kinds}] (\w+)$", out, re.M))


def without_sev(build: Path, source: str, headers: Path) -> list[str]:
    """The compiler's command line for that file as i386-softmmu has it, without KVM."""
    commands = json.loads((build / "compile_commands.json").read_text())
    found = [
        c for c in commands
        if c["file"] == f"../src/{source}" and "x86_64-softmmu" in c["output"]
    ]  # fmt: skip
    words = found[0]["command"] if found else ""
    if not words:
        # Not in our build: as the file that is.
        folder = source.rsplit("/", 1)[0]
        other = next(c for c in commands if c["file"].startswith(f"../src/{folder}/"))
        words = other["command"].replace(other["file"], f"../src/{source}")
    argv = shlex.split(words)
    for at, word in enumerate(argv):
        for kind in ("TARGET", "DEVICES"):
            if word.startswith(f"-DCONFIG_{kind}="):
                argv[at] = f'-DCONFIG_{kind}="{headers / kind}"'
    out = str(headers / (source.replace("/", "_") + ".o"))
    for option, name in (("-o", out), ("-MQ", out), ("-MF", f"{out}.d")):
        argv[argv.index(option) + 1] = name
    return ["-O1" if word == "-O2" else word for word in argv]


def test_without_the_emulation_nothing_is_missing(tree: Path, tmp_path: Path) -> None:
    """The objects of i386-softmmu: whatever of the emulation they name has a stub."""
    for kind, name in (("TARGET", "target"), ("DEVICES", "devices")):
        text = (tree / f"x86_64-softmmu-config-{name}.h").read_text()
        lines = [
            line for line in text.splitlines()
            if not re.match(r"#define (TARGET_X86_64|CONFIG_SEV|CONFIG_KVM)\b", line)
        ]  # fmt: skip
        replaced = [
            line.replace('"x86_64"', '"i386"').replace("TARGET_LONG_BITS 64", "TARGET_LONG_BITS 32")
            for line in lines
        ]  # fmt: skip
        (tmp_path / kind).write_text("\n".join(replaced) + "\n")
    jobs = [
        subprocess.Popen(
            without_sev(tree, source, tmp_path), cwd=tree, stderr=subprocess.PIPE, text=True
        )
        for source in CALLERS
    ]
    for source, job in zip(CALLERS, jobs, strict=True):
        assert not job.communicate()[1] and job.returncode == 0, source
    objects = sorted(tmp_path.glob("*.o"))
    assert len(objects) == len(CALLERS)
    emulation = [p for p in tree.rglob("*.o") if re.search(EMULATION, str(p))]
    offered = symbols(emulation, undefined=False)
    assert "helper_rmpquery" in offered
    missing = symbols(objects, undefined=True) & offered - symbols(objects, undefined=False)
    assert not missing, f"not there without the emulation: {sorted(missing)}"


def qtest(build: Path, name: str, binary: Path) -> None:
    """One of QEMU's own test programs against a QEMU."""
    done = subprocess.run(
        [build / "tests/qtest" / name], cwd=build, capture_output=True, text=True, check=False,
        env={**os.environ, "QTEST_QEMU_BINARY": str(binary)}, timeout=patient(400),
    )  # fmt: skip
    lines = re.findall(r"^(?:not )?ok .*|^Bail out.*", done.stdout, re.M)
    bad = [line for line in lines if not line.startswith("ok ")]
    assert done.returncode == 0 and lines and not bad, done.stdout[-3000:] + done.stderr[-3000:]
    assert not [line for line in lines if "SKIP" in line], lines


@pytest.mark.slow
@pytest.mark.parametrize("name", TESTS)
def test_qemus_own_tests(tree: Path, name: str) -> None:
    """Its table of QMP commands, and what the series adds to its tests."""
    run("ninja", "-C", tree, f"tests/qtest/{name}")
    qtest(tree, name, tree / BINARY)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_other_targets_build_and_start(tmp_path: Path) -> None:
    """i386, and x86_64 without KVM: neither has the emulation."""
    source = tmp_path / "src"
    source.mkdir()
    found = Path(run(PATCHES / "fetch.sh").strip())
    if found.is_dir():
        run("cp", "-a", f"{found}/.", source)
    else:
        run("tar", "-C", source, "--strip-components=1", "-xf", found)
    run(PATCHES / "apply.sh", source)
    build = tmp_path / "build"
    build.mkdir()
    python = next((store.root() / "work").glob("qemu-python-*/bin/python"))
    subprocess.run(
        [source / "configure", f"--python={python}", *OTHER],
        cwd=build, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    binaries = ["qemu-system-i386", BINARY]
    names = ["cpc-test", "qmp-cmd-test"]
    run("ninja", "-C", build, *binaries, *(f"tests/qtest/{name}" for name in names))
    for binary in binaries:
        for name in names:
            qtest(build, name, build / binary)
