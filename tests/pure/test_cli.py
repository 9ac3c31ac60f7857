# SPDX-License-Identifier: Apache-2.0
"""The command line: help, errors and results against golden files."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cpcctl import __main__ as entry
from cpcctl import abi
from cpcctl.cli.verbs import GROUPS, VERBS
from cpcctl.config.load import load
from cpcctl.errors import CpcError
from cpcctl.host import find
from cpcctl.host.files import NotPlain
from cpcctl.jobs.store import JobStore
from cpcctl.snp import checks, kernel
from cpcctl.snp.ovmf import NoOvmf
from cpcctl.vm import lifecycle, ready

TOP = Path(__file__).parents[2]
HEAVY = ("rich", "asyncio", "yaml", "ssl", "qemu", "cryptography", "subprocess", "email")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with nothing on it and nothing configured."""
    for name, value in {
        "STATE_DIR": str(tmp_path / "s"), "RUN_DIR": str(tmp_path / "r"), "HOST": "host-a",
        "CACHE_DIR": str(tmp_path / "c"), "QEMU": "", "QEMU_DATA": "", "FIRMWARE": "",
        "FORMAT": "", "PROGRESS": "", "ACCEL": "tcg", "KVM_VERDICT": "",
    }.items():
        monkeypatch.setenv(f"CPCCTL_{name}", value)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    monkeypatch.setattr("cpcctl.config.load.SYSTEM_FILE", tmp_path / "none")
    monkeypatch.setattr("cpcctl.host.find.LIBRARY", tmp_path / "l")
    return tmp_path


def run(*argv: str) -> int:
    """main(), with argparse's exits as return values."""
    try:
        return entry.main(argv)
    except SystemExit as stop:
        assert isinstance(stop.code, int)
        return stop.code


@pytest.mark.parametrize("path", ["", *GROUPS, *(verb.path for verb in VERBS)])
def test_help(
    path: str, golden: Callable[[str, str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*path.split(), "--help") == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    golden(f"help{'-' if path else ''}{path.replace(' ', '-')}.txt", shown.out)


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from cpcctl.__main__ import main\n"
        "try: main(['--help'])\n"
        f"except SystemExit: print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=TOP, capture_output=True, text=True, check=True
    )
    assert done.stderr == "[]\n"


BAD = {
    "no-verb": (),
    "unknown-verb": ("mirgate",),
    "unknown-flag": ("vm", "list", "--all"),
    "no-abbreviations": ("vm", "list", "--form", "json"),
    "missing-argument": ("vm", "start"),
    "bad-format": ("vm", "list", "--format", "xml"),
    "unknown-vm": ("vm", "status", "a"),
    "stop-unknown-vm": ("vm", "stop", "a"),
    "ping-unknown-vm": ("hvcpu", "ping", "a"),
    "console-unknown-vm": ("vm", "console", "a"),
    "vm-name": ("vm", "status", "../a"),
    "count": ("hvcpu", "add", "a", "--count", "0"),
    "nan-seconds": ("vm", "stop", "a", "--timeout", "nan"),
    "zero-seconds": ("vm", "stop", "a", "--timeout", "0"),
    "words-for-seconds": ("vm", "stop", "a", "--timeout", "soon"),
    "unknown-job": ("job", "show", "20260101-000000-aaaa"),
    "job-name": ("job", "show", "x"),
    "listen": ("receive", "--listen", "host-b"),
    "parallel": ("migrate", "a", "-", "--parallel", "99"),
    "missing-file": ("vm", "start", "/nonexistent/vm.yaml"),
}


@pytest.mark.parametrize("name", BAD)
def test_refused(
    name: str, host: Path, golden: Callable[[str, str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*BAD[name]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    golden(f"error-{name}.txt", shown.err)


def test_a_definition_with_an_unknown_key(
    host: Path, golden: Callable[[str, str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    path = host / "vm.yaml"
    path.write_text("name: a\nmemory: 64M\nvpcus: 2\n")
    assert run("vm", "start", str(path)) == 2
    golden("error-unknown-key.txt", capsys.readouterr().err.replace(str(host), "HOST"))


@pytest.mark.parametrize("more", [[], ["--print-command"]])
def test_a_part_that_lacks_or_does_not_do(
    more: list[str], host: Path, golden: Callable[[str, str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Missing or wrong, the host's or the definition's: one exit code, as doctor's."""
    definition, firmware = host / "vm.yaml", host / "fw"
    definition.write_text("name: a\nmemory: 64M\n")

    def start(*flags: str) -> str:
        assert run("vm", "start", str(definition), *more, *flags) == 3
        return capsys.readouterr().err.replace(str(host), "HOST")

    golden("error-no-firmware.txt", start())
    firmware.write_bytes(b"not a firmware")
    golden("error-bad-firmware.txt", start("--firmware", str(firmware)))
    assert start("--firmware", "/none").startswith("error: no hvCPU firmware at /none\n")
    header = abi.ImageHeader(magic=abi.IMAGE_MAGIC, abi=abi.ABI_VERSION)
    firmware.write_bytes(bytes(header))
    golden("error-no-qemu.txt", start("--firmware", str(firmware)))
    assert "no patched QEMU at /none\n" in start("--firmware", str(firmware), "--qemu", "/none")
    assert not (host / "s" / "vms").exists()


def test_a_firmware_of_snp_guests_that_lacks(host: Path) -> None:
    with pytest.raises(CpcError, match="no OVMF at /none") as caught:
        find.ovmf_image(load({}), "/none")
    assert (caught.value.exit_code, caught.value.hint) == (3, find.OVMF_FIX)


@pytest.mark.parametrize(
    ("key", "fix"),
    [
        ("kernel: /none", ready.KERNEL_FIX),
        ("platform: sev-snp\nsev-snp: {firmware: /none}", find.OVMF_FIX),
        ("disks: [path: /none]", "ls -l /none"),
    ],
)
def test_a_missing_file_of_a_definition(
    key: str, fix: str, host: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (host / "vm.yaml").write_text(f"name: a\nmemory: 256M\n{key}\n")
    assert run("vm", "start", str(host / "vm.yaml")) == 3
    assert capsys.readouterr().err == (
        f"error: VM a needs /none, which is not there\n  try: {fix}\n"
    )


def test_too_little_memory(
    host: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cpcctl.vm.lifecycle.available_memory", lambda: 100 << 20)
    (host / "vm.yaml").write_text("name: a\nmemory: 64M\n")
    assert run("vm", "start", str(host / "vm.yaml")) == 3
    assert list((host / "r" / "locks").iterdir()) == []
    assert capsys.readouterr().err == (
        "error: too little memory on host-a for VM a\n"
        "  cause (host-a): 354 MiB needed, QEMU and rings included; 100 MiB available\n"
        "  try: cpcctl vm list\n"
    )


@pytest.mark.parametrize("verb", ["vm", "job"])
def test_empty_lists(verb: str, host: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(verb, "list", "--format", "json") == 0
    assert json.loads(capsys.readouterr().out) == []
    assert run("--format", "json", verb, "list") == 0
    assert json.loads(capsys.readouterr().out) == []


RESULT = {
    "vm": "a", "source": "host-a", "destination": "host-b",
    "phases": [{"name": "precopy", "seconds": 0.5}],
    "rounds": [
        {"number": 1, "pages": 300, "zero_pages": 7892, "bytes": 1_228_800, "seconds": 0.5,
         "dirty": 90},
        {"number": 4, "pages": 20, "zero_pages": 0, "bytes": 81_920, "seconds": 0.01,
         "dirty": None},
    ],
    "rounds_left_out": 2, "streams": 1, "stream_bytes": [1_572_864], "streams_why": "one hvCPU",
    "total_seconds": 1.0, "downtime_seconds": 0.125, "paused_seconds": 0.0,
    "bytes_sent": 1_572_864, "suite": "AEGIS-128L", "suite_why": "the fastest",
    "peer_attested": False, "protection": "",
}  # fmt: skip


def test_a_job_is_shown(host: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = JobStore(host / "s" / "jobs").create("migrate", "a", "host-a", secret="s3cret")
    job.phase("precopy")
    job.finish("done", result=RESULT)
    assert run("job", "show", job.id, "--format", "json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert sorted(shown) == [
        "created", "error", "exit_code", "finished", "host", "id", "kind", "phase", "phases",
        "pid", "pid_started", "progress", "result", "state", "updated", "vm",
    ]
    assert (shown["state"], shown["result"]) == ("done", RESULT)
    assert run("job", "show", job.id) == 0
    text = capsys.readouterr().out
    assert "phase precopy:" in text
    assert "s3cret" not in text
    words = {name: value.strip() for name, _, value in (
        line.partition(":") for line in text.splitlines()
    )}  # fmt: skip
    assert words["moved"] == "a from host-a to host-b"
    assert words["sent"] == "1.5 MiB" and words["downtime"] == "0.125 s"
    assert text.splitlines()[-4:] == [
        "ROUND  PAGES SENT  ZERO PAGES  DIRTY AFTER  BYTES     TIME",
        "1      300         7892        90           1.2 MiB   0.500 s",
        "(2 rounds left out)",
        "4      20          0           -            80.0 KiB  0.010 s",
    ]
    assert not set("{}[]'") & set(text), text
    assert run("job", "list") == 0
    columns = capsys.readouterr().out.splitlines()[1].split()
    assert columns == [job.id, "migrate", "a", "done", "precopy", "0"]


def test_a_job_is_shown_while_it_runs(host: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also how far one was that failed; JSON has the values as they are."""
    job = JobStore(host / "s" / "jobs").create("migrate", "a", "host-a")
    job.phase("copy")
    progress = {
        "round": 2, "pages": 12, "zero_pages": 3, "bytes_sent": 3 << 20, "bytes_done": 61_440,
        "bytes_expected": 1 << 20, "rounds": RESULT["rounds"][:1],  # type: ignore[index]
        "rounds_left_out": 0, "expected_downtime_seconds": 0.7, "note": "no progress for 9 s",
        "dirty_bytes_per_second": 5 << 20, "copy_bytes_per_second": 4 << 20,
    }  # fmt: skip
    job.progress(**progress)
    assert run("job", "show", job.id) == 0
    text = capsys.readouterr().out
    for line in (
        "round 2:     60.0 KiB of 1.0 MiB: 12 pages sent, 3 zero pages",
        "sent:        3.0 MiB",
        "downtime:    0.700 s, if it switched over now",
        "rates:       5.0 MiB/s written by the guest, 4.0 MiB/s copied",
        "note:        no progress for 9 s",
        "1      300         7892        90           1.2 MiB  0.500 s",
    ):
        assert line in text.splitlines(), text
    assert run("job", "show", job.id, "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)["progress"] == progress


@pytest.mark.parametrize(
    ("definition", "emulated"),
    [
        ("platform: sev-snp\naccel: tcg\n", True),
        ("platform: sev-snp\naccel: kvm\n", False),
        ("accel: tcg\n", None),
    ],
)
def test_json_says_whether_an_snp_guest_is_emulated(
    definition: str, emulated: bool | None, host: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a plain guest there is nothing to say; its processor protects nothing either way."""
    folder = host / "s" / "vms" / "a"
    folder.mkdir(parents=True)
    (folder / "vm.yaml").write_text(f"name: a\nmemory: 256M\nmachine: pc-q35-10.0\n{definition}")
    (folder / "qemu.lock").touch()
    assert run("vm", "status", "a", "--format", "json") == 0
    assert json.loads(capsys.readouterr().out).get("emulated") is emulated
    assert run("vm", "list", "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)[0].get("emulated") is emulated


@pytest.mark.parametrize("stopped", [False, True])
def test_a_vm_that_ends_while_it_is_looked_at(
    stopped: bool, host: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """It ran when vm status asked its QEMU; what could be asked next is left out."""
    found = {"name": "a", "host": "host-a", "state": "running", "pid": 1}
    monkeypatch.setattr(lifecycle, "look", lambda *_: (dict(found), None))
    if not stopped:
        folder = host / "s" / "vms" / "a"
        folder.mkdir(parents=True)
        (folder / "vm.yaml").write_text("name: a\nmemory: 256M\nmachine: pc-q35-10.0\n")
        (folder / "qemu.lock").touch()
    assert run("vm", "status", "a", "--format", "json") == 0
    assert json.loads(capsys.readouterr().out) == found


def test_version_without_any_part(host: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("version", "--format", "json") == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {
        "cpcctl": "0.1.0", "abi": abi.ABI_VERSION, "wire": 1, "qemu": None, "qemu_patched": None,
        "firmware": None, "accel": "tcg",
    }
    assert "qemu: no patched QEMU found" in shown.err


def test_doctor_names_every_check_and_its_fix(
    host: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("doctor", "--format", "json") == 3
    shown = json.loads(capsys.readouterr().out)
    assert shown["ok"] is False
    checks = {check["name"]: check for check in shown["checks"]}
    assert list(checks) == [
        "python", "packages", "qemu", "qemu-patched", "tcg-threads", "firmware", "kvm",
        "accelerator", "hvcpu-ping", "ovmf", "snp-emulated", "snp-hardware", "ring-space",
        "memory", "state-folder", "namespaces", "tun",
    ]
    keys = {"name", "host", "ok", "reason", "fix", "detail", "required"}
    assert all(set(check) == keys for check in checks.values())
    assert all(check["host"] == "host-a" for check in checks.values())
    for check in checks.values():
        assert check["ok"] is (check["reason"] is None) is (check["detail"] is not None), check
        assert not (check["ok"] and check["fix"]), check
    assert checks["qemu"]["ok"] is False
    assert checks["qemu"]["fix"] == "make qemu, or set CPCCTL_QEMU"
    assert all(check["fix"] for check in checks.values() if not check["ok"] and check["required"])


def test_a_reader_that_goes_away(tmp_path: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} -m cpcctl completion bash | head -1",
        shell=True, cwd=TOP, capture_output=True, text=True, check=False,
    )
    assert done.stdout == "# bash completion for cpcctl\n"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("argv", ["vm list", "--help", "completion bash"])
def test_a_full_stdout_is_one_line(argv: str, host: Path) -> None:
    done = subprocess.run(
        f"exec {sys.executable} -m cpcctl {argv} > /dev/full",
        shell=True, cwd=TOP, capture_output=True, text=True, check=False,
    )
    assert (done.returncode, done.stderr) == (
        1, "error: cannot write to stdout: No space left on device\n"
    )


def test_a_full_stderr_changes_no_exit_code(host: Path) -> None:
    done = subprocess.run(
        f"exec {sys.executable} -m cpcctl vm status a 2> /dev/full",
        shell=True, cwd=TOP, capture_output=True, text=True, check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize(
    ("argv", "variable"),
    [
        (("vm", "list", "--all", "--format", "json"), ""),
        (("--format=json", "mirgate"), ""),
        (("vm", "start"), "json"),
    ],
)
def test_usage_errors_as_json(
    argv: tuple[str, ...], variable: str, host: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CPCCTL_FORMAT", variable)
    assert run(*argv) == 2
    error = json.loads(capsys.readouterr().err)["error"]
    assert error["exit_code"] == 2
    assert error["message"]
    assert error["hint"].endswith("--help")


@pytest.mark.parametrize("verb", ["vm", "job"])
def test_a_state_folder_that_is_a_file(
    verb: str, host: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (host / "file").write_text("")
    monkeypatch.setenv("CPCCTL_STATE_DIR", str(host / "file"))
    assert run(verb, "list") == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert f"error: {host / 'file'} cannot be used as a folder\n" in shown.err
    assert f"cause: {host / 'file'} is not a folder" in shown.err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: a\nmemory: 64M\nname: b\n", ": key 'name' is given twice, again in line 3"),
        ("name: a\nmemory: 64M\ndisks:\n- path: /d\n  path: /e\n",
         ": key 'path' is given twice, again in line 5"),
        ("", " is empty"),
        ("# nothing\n", " is empty"),
    ],
)
def test_a_definition_that_is_refused_as_a_file(
    text: str, words: str, host: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = host / "vm.yaml"
    path.write_text(text)
    assert run("vm", "start", str(path)) == 2
    assert capsys.readouterr().err.splitlines()[0] == f"error: {path}{words}"


def other_than_files(folder: Path) -> dict[str, str]:
    """Things that can be named in place of a file, and what they are."""
    os.mkfifo(folder / "fifo")
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(folder / "sock"))
    return {
        str(folder / "fifo"): "a FIFO", "/dev/zero": "a device", "/dev/tty": "a device",
        str(folder / "sock"): "a socket", str(folder): "a folder",
    }


@pytest.mark.timeout(20)
def test_a_definition_that_is_no_file(host: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody writes into this FIFO: to open it would wait for ever."""
    for path, kind in other_than_files(host).items():
        for more in ([], ["--print-command"]):
            assert run("vm", "start", path, *more) == 2
            assert capsys.readouterr().err == (
                f"error: {path} cannot be read\n"
                f"  cause: it is {kind} and not a plain file: {path}\n"
                "  try: write the definition into a plain file\n"
            )


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text",
    [
        "kernel: {0}", "kernel: {1}\ninitrd: {0}", "uefi_code: {0}", "disks: [path: {0}]",
        "platform: sev-snp\nsev-snp: {{firmware: {0}}}", "platform: sev-snp\nkernel: {0}",
    ],
)
def test_a_definition_that_names_what_is_no_file(
    text: str, host: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = host / "plain"
    plain.write_text("")
    for path, kind in other_than_files(host).items():
        words = f"name: a\nmemory: 256M\n{text.format(path, plain)}\n"
        (host / "vm.yaml").write_text(words)
        assert run("vm", "start", str(host / "vm.yaml")) == 3
        assert capsys.readouterr().err == (
            f"error: VM a needs a file {path}, which is {kind}\n"
            f"  try: ls -l {path}; name a plain file in its place\n"
        )


@pytest.mark.timeout(20)
def test_a_kernel_or_firmware_to_measure_that_is_no_file(host: Path) -> None:
    """As --print-command looks at them, before anything else does."""
    for path, kind in other_than_files(host).items():
        with pytest.raises(NotPlain, match=f"it is {kind}"):
            kernel.look(Path(path))
        with pytest.raises(NoOvmf, match=f"it is {kind}"):
            checks.read_firmware(Path(path))


def test_damaged_job_files_are_named(host: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = JobStore(host / "s" / "jobs")
    job = store.create("migrate", "a", "host-a")
    damaged = store.folder / "20260101-000000-aaaa.json"
    damaged.write_text("{")
    assert run("job", "list") == 0
    shown = capsys.readouterr()
    assert job.id in shown.out
    assert shown.err == f"left out: the job file {damaged} is damaged\n"


def test_a_mistyped_vm_leaves_no_lock_file(host: Path) -> None:
    for argv in (("vm", "stop", "b"), ("vm", "stop", "--force", "b"), ("hvcpu", "add", "b")):
        assert run(*argv) == 2
    assert not (host / "r" / "locks").exists()
