# SPDX-License-Identifier: Apache-2.0
"""VM definitions: what is read, what is refused, and that nothing crashes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cpcctl.errors import CpcError
from cpcctl.vm import spec

SMALL = {"name": "a", "memory": "64M"}
FULL: dict[str, Any] = {
    "name": "web-1", "memory": "2G", "max_memory": "4GiB", "platform": "plain", "machine": "pc",
    "cpu": "max", "accel": "tcg", "vcpus": 2, "max_vcpus": 4, "memory_blocks": 2,
    "hvcpu_max": 8, "hvcpus": 2, "ring_size": "4M", "kernel": "/k", "initrd": "/i",
    "append": "quiet", "console": "none", "devices": ["virtio-rng-pci"],
    "disks": [{"path": "/d", "format": "raw", "cache": "writeback", "readonly": True}],
    "nics": [{"mode": "tap", "tap": "tap0", "mac": "52:54:00:00:00:01"}, {"mode": "user"}],
}


def test_defaults() -> None:
    found = spec.read(SMALL)
    assert (found.memory, found.max_memory) == (64 << 20, 64 << 20)
    assert (found.vcpus, found.max_vcpus) == (1, 1)
    assert (found.machine, found.accel, found.cpu) == ("q35", "auto", "max")
    assert not found.versioned


def test_what_is_written_is_read_back() -> None:
    for document in (SMALL, FULL):
        found = spec.read(document)
        assert spec.read(yaml.safe_load(spec.dump(found))) == found


def test_a_nic_keeps_its_made_up_mac() -> None:
    one = spec.read({**SMALL, "nics": [{}, {}]})
    two = spec.read({**SMALL, "nics": [{}, {}]})
    assert one.nics == two.nics
    assert one.nics[0].mac != one.nics[1].mac


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"memori": "1G"}, "VM definition: unknown key 'memori'"),
    ({"name": "../x"}, "VM definition: name: '../x' is not 1 to 48 letters"),
    ({"memory": 64}, "VM definition: memory: 64 is not a size such as 512M or 2G"),
    ({"memory": "1M"}, "VM definition: memory must be at least 32M"),
    ({"memory": "65M"}, "VM definition: memory must be a multiple of 2M"),
    ({"max_memory": "32M"}, "VM definition: max_memory is less than memory"),
    ({"max_memory": "99T"}, "VM definition: max_memory is more than 16T"),
    ({"max_memory": "65M"}, "VM definition: max_memory must be a multiple of 2M"),
    ({"vcpus": 0}, "VM definition: vcpus: 0 is not a whole number in 1..256"),
    ({"vcpus": True}, "VM definition: vcpus: True is not a whole number in 1..256"),
    ({"vcpus": 3, "max_vcpus": 2}, "VM definition: max_vcpus is less than vcpus"),
    ({"hvcpus": 5}, "VM definition: hvcpus is more than hvcpu_max"),
    ({"hvcpu_max": 17}, "VM definition: hvcpu_max: 17 is not a whole number in 1..16"),
    ({"ring_size": "3M"}, "VM definition: ring_size must be 2M, 4M, 8M"),
    ({"accel": "xen"}, "VM definition: accel: 'xen' is not one of auto, tcg, kvm"),
    ({"machine": "microvm"}, "VM definition: machine: 'microvm' is neither pc, q35"),
    ({"platform": "sev"}, "VM definition: platform: 'sev' is not one of plain, sev-snp"),
    ({"kernel": "vmlinuz"}, "VM definition: kernel: 'vmlinuz' is not an absolute path"),
    ({"initrd": "/i"}, "VM definition: initrd and append need kernel"),
    ({"kernel": "/k", "uefi_code": "/c"}, "VM definition: kernel and uefi_code exclude"),
    ({"uefi_vars": "/v"}, "VM definition: uefi_vars needs uefi_code"),
    ({"cpu": "a\nb"}, "VM definition: cpu: 'a\\nb' is not a one-line string"),
    ({"disks": [{}]}, "VM definition: disks[0]: path is missing"),
    ({"disks": [{"path": "/d"}, {"path": "/d"}]}, "VM definition: two disks have the same path"),
    ({"disks": [{"path": "/d", "readonly": 1}]},
     "VM definition: disks[0]: readonly: 1 is neither true nor false"),
    ({"disks": {}}, "VM definition: disks: must be a list of at most 16"),
    ({"nics": [{"mode": "tap"}]}, "VM definition: nics[0]: tap names the device of mode tap"),
    ({"nics": [{"mode": "none", "hostfwd": ["x"]}]}, "VM definition: nics[0]: hostfwd needs"),
    ({"nics": [{"mode": "tap", "tap": "a,b"}]}, "VM definition: nics[0]: tap: 'a,b' is not"),
    ({"nics": [{"mac": "01:00:00:00:00:00"}]}, "VM definition: nics[0]: mac:"),
    ({"nics": [{"mac": "52:54:00:00:00:01"}] * 2}, "VM definition: two nics have the same mac"),
    ({"name": None}, "VM definition: name: None is not 1 to 48"),
]


@pytest.mark.parametrize(("change", "words"), REFUSED)
def test_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(CpcError) as caught:
        spec.read({**SMALL, **change})
    assert caught.value.message.startswith(words)
    assert caught.value.exit_code == 2


def test_the_nearest_key_is_suggested() -> None:
    with pytest.raises(CpcError) as caught:
        spec.read({**SMALL, "hvcpu": 1})
    assert caught.value.hint in ("did you mean 'hvcpus'?", "did you mean 'vcpus'?")


@pytest.mark.parametrize("missing", ["name", "memory"])
def test_what_must_be_there(missing: str) -> None:
    with pytest.raises(CpcError, match=f"{missing} is missing"):
        spec.read({key: value for key, value in SMALL.items() if key != missing})


@pytest.mark.parametrize("document", [None, [], "x", 5, {1: 2}])
def test_what_is_no_definition_at_all(document: Any) -> None:
    with pytest.raises(CpcError):
        spec.read(document)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats()
    | st.sampled_from(["64M", "2G", "tap", "user", "/d", "pc", "q35"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from([*spec.DISK, *spec.NIC]) | st.text(max_size=4), inner, max_size=3
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(list(spec.SPEC)), VALUES, max_size=8))
@settings(max_examples=400, deadline=None)
def test_any_document_is_read_or_refused(document: dict[str, Any]) -> None:
    try:
        found = spec.read({**SMALL, **document})
    except CpcError as error:
        assert error.exit_code == 2
    else:
        assert spec.read(yaml.safe_load(spec.dump(found))) == found


HOSTILE = (
    b"\xff\xfe",
    b"[" * 10000,
    b"a: &x [*x]",
    b"\x00",
    b"!!python/name:os.system x",
    b"x" * (1 << 20 | 1),
)


@pytest.mark.parametrize("data", HOSTILE)
def test_hostile_files(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "vm.yaml"
    path.write_bytes(data)
    with pytest.raises(CpcError) as caught:
        spec.load(path)
    assert caught.value.exit_code == 2


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CpcError, match="cannot be read"):
        spec.load(tmp_path / "none")


def test_every_key_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "vm-definition.md").read_text()
    for key in (*spec.SPEC, *spec.DISK, *spec.NIC):
        assert f"`{key}`" in text, key
    example = text.split("```yaml\n")[1].split("```")[0]
    assert spec.read(yaml.safe_load(example)).name == "web-1"
