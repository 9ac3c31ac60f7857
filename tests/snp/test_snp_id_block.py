# SPDX-License-Identifier: Apache-2.0
"""What the owner of a guest signs beforehand: the processor launches nothing else."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from cpcctl.config.settings import Settings
from cpcctl.demo.console import Console
from cpcctl.setup.kernels import Kernel
from cpcctl.vm import lifecycle
from tests.one_host import Cli
from tests.patience import patient
from tests.snp.asking import LOAD, ask
from tests.snp.conftest import Define
from tests.snp.test_vm_snp import wait_for_words

# In a report, by AMD's SEV-SNP firmware ABI.
ID_KEY_DIGEST, AUTHOR_KEY_DIGEST = slice(0xE0, 0x110), slice(0x110, 0x140)
SIGNATURE, AUTHORS_SIGNATURE = 0x40, 0x680
Signed = tuple[dict[str, Any], bytes, bytes]


@pytest.fixture
def sign(tmp_path: Path) -> Callable[[str], Signed]:
    """By the independent tool: keys of a definition, digests of the two public keys."""
    keys = []
    for name in ("id", "author"):
        private = ec.generate_private_key(ec.SECP384R1())
        path = tmp_path / f"{name}.pem"
        path.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        keys.append(str(path))

    def made(launch_digest: str) -> Signed:
        tool = Path(sys.executable).with_name("snp-create-id-block")
        digest = base64.b64encode(bytes.fromhex(launch_digest))
        said = subprocess.run(
            [tool, "--measurement", digest, "--idkey", keys[0], "--authorkey", keys[1]],
            capture_output=True, text=True, check=True, timeout=patient(60.0),
        ).stdout  # fmt: skip
        found = re.match(
            r"id-block=(\S+),id-auth=(\S+)\nid_key_hash: (\S+)\nauthor_key: (\S+)$", said
        )
        assert found
        id_key, author = (base64.b64decode(digest) for digest in found.groups()[2:])
        return {"id_block": found[1], "id_auth": found[2]}, id_key, author

    return made


def expected(cli: Cli, path: Path) -> str:
    """The launch digest that cpcctl computes for a definition."""
    code, out, err = cli("vm", "start", str(path), "--print-command", "--format", "json")
    assert code == 0, err
    digest = json.loads(out)["launch_digest"]
    assert isinstance(digest, str)
    return digest


def test_a_signed_guest_starts_and_its_report_names_the_keys(
    place: Settings, define: Define, cli: Cli, asking_kernel: Kernel, sign: Callable[[str], Signed]
) -> None:
    document = {"kernel": str(asking_kernel.vmlinuz), "initrd": str(asking_kernel.initrd)}
    keys, id_key, author = sign(expected(cli, define(**document)))
    code, _, err = cli("vm", "start", str(define(**document, **{"sev-snp": keys})))
    assert code == 0, err
    vm = lifecycle.attach(place, "a")
    wait_for_words(vm.paths.console_log, "CPC-READY")
    with Console(vm.paths.console) as shell:
        shell.run(LOAD)
        report = ask(shell, b"nonce")
    assert report[ID_KEY_DIGEST] == id_key
    assert report[AUTHOR_KEY_DIGEST] == author


def spoil(keys: dict[str, Any], at: int) -> dict[str, Any]:
    """One bit of id_auth changed."""
    auth = bytearray(base64.b64decode(keys["id_auth"]))
    auth[at] ^= 1
    return keys | {"id_auth": base64.b64encode(auth).decode()}


def refused(cli: Cli, path: Path) -> tuple[int, str]:
    """Exit code and error of a start; nothing is left of it."""
    code, _, err = cli("vm", "start", str(path))
    assert cli("vm", "list", "--format", "json")[1].strip() == "[]"
    return code, err


def test_what_was_not_signed_does_not_start(
    place: Settings, define: Define, cli: Cli, sign: Callable[[str], Signed]
) -> None:
    digest = expected(cli, define(vcpus=2))
    keys = sign(digest)[0]
    code, err = refused(cli, define(vcpus=1, **{"sev-snp": keys}))
    assert code == 3 and f"the ID block is for {digest}" in err
    code, err = refused(cli, define(vcpus=2, **{"sev-snp": keys | {"policy": 0xB0000}}))
    assert code == 2 and "id_block was signed for policy 0x30000, not 0xb0000" in err


@pytest.mark.parametrize("at", [SIGNATURE, AUTHORS_SIGNATURE])
def test_the_processor_refuses_a_bad_signature(
    place: Settings, define: Define, cli: Cli, sign: Callable[[str], Signed], at: int
) -> None:
    keys = spoil(sign(expected(cli, define()))[0], at)
    code, err = refused(cli, define(**{"sev-snp": keys}))
    assert code == 3 and "Bad signature" in err and "warning" not in err


def test_the_processor_compares_too(
    place: Settings, define: Define, cli: Cli, sign: Callable[[str], Signed],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A host that does not check beforehand gets no further."""
    digest = expected(cli, define(vcpus=2))
    keys = sign(digest)[0]
    monkeypatch.setattr("cpcctl.snp.definition.Snp.signed_digest", None)
    monkeypatch.setattr("cpcctl.snp.definition.Snp.signed_policy", None)
    code, err = refused(cli, define(vcpus=1, **{"sev-snp": keys}))
    assert code == 3 and "Bad measurement" in err
    code, err = refused(cli, define(vcpus=2, **{"sev-snp": keys | {"policy": 0xB0000}}))
    assert code == 3 and "Policy is not allowed" in err
