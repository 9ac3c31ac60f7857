# SPDX-License-Identifier: Apache-2.0
"""The Debian guest with nested KVM, and the choice between it and this machine."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cpcctl.bench import scenario
from cpcctl.bench.scenario import SCENARIOS, Sample
from cpcctl.demo.guard import marked
from cpcctl.demo.hosts import wait_until
from cpcctl.vm import lifecycle
from tests.nested import kvm, machine, project, run
from tests.patience import patient

BOOT = patient(120)


def report(ok: bool, reason: str | None) -> str:
    """What doctor prints."""
    return json.dumps({"checks": [{"name": "kvm", "ok": ok, "reason": reason}]})


def test_the_verdict_is_doctors() -> None:
    assert kvm.verdict(report(True, None)) == ""
    assert kvm.verdict(report(False, "there is no /dev/kvm")) == "there is no /dev/kvm"
    for text in ("", "null", "{}", '{"checks": []}', '{"checks": [{"name": "kvm"}]}'):
        assert "no answer" in kvm.verdict(text)


@pytest.mark.parametrize(
    ("argv", "why", "first", "ran"),
    [
        (["test"], "", "KVM works here: running with it directly\n", "here"),
        (["test"], "it hangs", "no working KVM here (it hangs): running in a Debian", "there"),
        (["test", "--nested"], "", "asked for: running in a Debian guest", "there"),
    ],
)
def test_the_first_line_says_which_way_and_why(
    argv: list[str], why: str, first: str, ran: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    seen = []

    def here(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        seen.append(("here", command))
        return subprocess.CompletedProcess(command, 3)

    def there(command: list[str], seconds: float) -> int:
        seen.append(("there", command))
        assert machine.BOOT_SECONDS + seconds <= 20 * 60
        return 3

    monkeypatch.setattr(kvm, "ask_doctor", lambda: why)
    monkeypatch.setattr(kvm, "prepare", lambda: None)
    monkeypatch.setattr(subprocess, "run", here)
    monkeypatch.setattr(run, "guarded", there)
    assert kvm.main(argv) == 3, "the status of what ran is passed on"
    assert capsys.readouterr().out.startswith(first)
    assert [place for place, _ in seen] == [ran]


def test_the_nested_guest_runs_what_is_marked_unless_told_otherwise() -> None:
    def pytest_of(*arguments: str, nested: bool) -> list[str]:
        return kvm.commands("test", arguments, nested)[-1]

    assert pytest_of(nested=True)[-2:] == ["-m", "kvm"]
    assert "-m" not in pytest_of(nested=False)[3:]
    for nested in (True, False):
        argv = pytest_of(nested=nested)
        assert argv[argv.index("--accel") + 1] == "kvm"
        assert "kvm" in kvm.commands("bench", (), nested)[0]


@pytest.mark.parametrize(
    ("argument", "selects"),
    [
        ("-m", True), ("-k", True), ("-mvm", True), ("-kchain", True), ("-xk", True),
        ("-vvmvm and not long", True), ("-v", False), ("--maxfail=1", False), ("--markers", False),
        ("-otimeout=9", False), ("-pmy", False), ("tests/onevm/test-m.py", False), ("m", False),
    ],
)  # fmt: skip
def test_what_selects_tests_takes_the_place_of_the_mark(argument: str, selects: bool) -> None:
    argv = kvm.commands("test", [argument], nested=True)[-1]
    assert argv[-1] == argument
    assert (argv[-3:-1] == ["-m", "kvm"]) != selects


def test_the_nested_run_ends_with_what_fails_first(tmp_path: Path) -> None:
    """And nothing runs twice."""
    first, second = f"echo one >> {tmp_path}/log; exit $CODE", f"echo two >> {tmp_path}/log; exit 5"
    for code, lines in ((0, ["one", "two"]), (7, ["one"])):
        (tmp_path / "log").unlink(missing_ok=True)
        done = subprocess.run(
            ["sh", "-c", kvm.SCRIPT, "sh", shlex.join(["sh", "-c", first]),
             shlex.join(["sh", "-c", second])],
            check=False, env={**os.environ, "CODE": str(code)},
        )  # fmt: skip
        assert done.returncode == (code or 5)
        assert (tmp_path / "log").read_text().split() == lines


def test_a_run_says_how_long_it_took() -> None:
    assert machine.took(18.0, 702.0, 1080.0) == (
        "nested: boot 0.3 min, run 11.7 min, together 12.0 min of at most 20.0 min"
    )
    assert machine.took(120.0, None, 1080.0) == (
        "nested: 2.0 min of at most 20.0 min, without booting"
    )


@pytest.mark.parametrize(("ours", "words"), [(1.2, "1.20x (wanted: at most 1.2x)"),
                                             (1.3, "1.30x (wanted: at most 1.2x): MISSED")])
def test_the_direct_bench_says_what_is_wanted(
    ours: float, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Below the table that cpcctl bench prints; of the filled guest only."""
    results = [
        scenario.result(SCENARIOS[name], "kvm", 2, [Sample(ours, 0.1)], [Sample(1.0, 0.1)])
        for name in ("idle-2g", "filled-2g")
    ]
    measured = {"processor": "Some Processor, 2 CPUs", "results": results}

    def bench(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[-4:] == ["--repeat", "1", "--format", "json"]
        return subprocess.CompletedProcess(command, 0, stdout=json.dumps(measured))

    monkeypatch.setattr(kvm, "ask_doctor", lambda: "")
    monkeypatch.setattr(subprocess, "run", bench)
    assert kvm.main(["bench", "--repeat", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:-1] == scenario.text(results, "Some Processor, 2 CPUs").splitlines()
    assert lines[-1] == f"filled-2g, total: {words}"


def test_the_nested_bench_says_that_it_means_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kvm, "prepare", lambda: None)
    monkeypatch.setattr(run, "guarded", lambda *_: 0)
    assert kvm.main(["bench", "--nested"]) == 0
    shown = capsys.readouterr()
    assert "ratios mean nothing" in shown.err and "wanted" not in shown.out


def test_the_emulated_machine_is_looked_at_before_the_tests() -> None:
    words = [" ".join(command) for command in kvm.commands("test", (), nested=True)]
    assert "-m tests.nested.svm_race " in words[0]
    assert not any("svm_race" in " ".join(c) for c in kvm.commands("test", (), nested=False))


@pytest.mark.parametrize(
    ("free", "given"),
    [(1 << 40, run.MEMORY_MIB), (8 << 30, 4096), (2 * run.LEAST_MIB << 20, run.LEAST_MIB)],
)
def test_the_guest_gets_half_of_what_is_free(
    free: int, given: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "available_memory", lambda: free)
    assert run.memory_mib() == given


def test_a_machine_with_too_little_memory_says_so(
    built: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is built or booted."""
    monkeypatch.setattr(lifecycle, "available_memory", lambda: 2 * run.LEAST_MIB - 2 << 20)
    monkeypatch.setattr(project, "workplace", lambda: pytest.fail("it went on"))
    usual = signal.getsignal(signal.SIGTERM)
    try:
        assert run.guarded(["true"]) == run.FAILED
    finally:
        signal.signal(signal.SIGTERM, usual)
    assert f"{run.LEAST_MIB - 1} MiB, is too little" in capsys.readouterr().err


def test_a_command_arrives_as_it_was_given(tmp_path: Path) -> None:
    """The guest's script in a shell here, with files for its ports."""
    words = ["printf", "%s|", "a b", "it's", "$HOME", "", "\\n"]
    text = machine.script(words, tmp_path, {"NAME": "o'clock $X"})
    start, end = text.index("for port"), text.index("cd ")
    text = text[:start] + "output=out result=res\n" + text[end:]
    text = text.replace("while :; do sleep 1000; done", 'echo "$NAME" > name')
    done = subprocess.run(["sh", "-c", text], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").read_text() == "a b|it's|$HOME||\\n|"
    assert (tmp_path / "res").read_text() == "ended 0\n"
    assert (tmp_path / "name").read_text() == "o'clock $X\n"


def test_a_place_of_a_dead_owner_goes() -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    with project.workplace() as mine:
        old = mine.with_name(f"nested-{dead.pid}")
        old.mkdir()
        with project.workplace() as again:
            assert again == mine
        assert not old.exists()
    assert not mine.exists()


@pytest.fixture
def nested(built: object) -> Callable[..., subprocess.Popen[str]]:
    """Start the runner with a shell command."""

    def start(command: str, *options: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.nested.run", *options, "--", "sh", "-c", command],
            cwd=project.TOP, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            # Also when these tests run in the background, where a shell has it ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip

    return start


Start = Callable[..., subprocess.Popen[str]]


def machines() -> list[int]:
    """Emulated machines that these tests have running."""
    ours = marked(f"CPC_TEST_RUN={os.environ['CPC_TEST_RUN']}")
    names = {pid: Path(f"/proc/{pid}/comm") for pid in ours}
    return [p for p, name in names.items() if name.exists() and "qemu" in name.read_text()]


@pytest.mark.slow
def test_a_command_runs_where_kvm_is(nested: Start, tmp_path: Path) -> None:
    """Its output and status come back; it sees this checkout; it changes nothing here."""
    (project.TOP / "tests" / "nested" / "init").stat()
    seen = tmp_path / "seen"
    process = nested(
        f"test -c /dev/kvm && wc -c < tests/nested/init && pwd && mkdir -p {tmp_path} && "
        f"touch {seen} && echo $CPC_TEST_PATIENCE && echo bad >&2; exit 7",
        "--patience", "5",
    )
    out, err = process.communicate(timeout=BOOT)
    assert process.returncode == 7, err
    size = (project.TOP / "tests/nested/init").stat().st_size
    scale = float(os.environ.get("CPC_TEST_PATIENCE", "1"))
    assert out.splitlines() == [str(size), str(project.TOP), f"{5 * scale:g}", "bad"]
    assert not seen.exists()


@pytest.mark.slow
def test_a_command_that_hangs_is_ended_with_the_console(nested: Start) -> None:
    process = nested("echo CPC-HANGS > /dev/console; sleep 1000", "--seconds", "2")
    _, err = process.communicate(timeout=BOOT)
    assert process.returncode == run.FAILED
    assert "the command in the Debian guest did not end within" in err
    assert "CPC_TEST_PATIENCE=2 doubles every limit" in err
    assert "the end of its console:" in err and "CPC-HANGS" in err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_the_runner_ends_the_guest(
    nested: Start, number: signal.Signals
) -> None:
    """That no QEMU is left is looked at after every module of tests."""
    before = set(machines())
    process = nested("true")
    wait_until("QEMU runs", lambda: set(machines()) - before or process.poll(), patient(120))
    assert process.poll() is None, process.communicate()
    process.send_signal(number)
    _, err = process.communicate(timeout=patient(20))
    assert process.returncode == {2: 130, 15: 143, 9: -9}[number], err
    with project.workplace() as place:
        # What a killed one left in the cache went just now.
        rest = [p for p in place.parent.glob("nested-*") if p != place]
        assert not [p for p in rest if p.name == f"nested-{process.pid}"]
