# SPDX-License-Identifier: Apache-2.0
"""The attestation report of an emulated guest, to verifiers that know nothing of us."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from omne_attest import Fail, FailKind, Policy, Report, verify

from cpcctl.config.settings import Settings
from cpcctl.demo.console import Console
from cpcctl.setup.kernels import Kernel
from cpcctl.vm import lifecycle
from tests import confined
from tests.one_host import Cli
from tests.patience import patient
from tests.snp.asking import LOAD, ask
from tests.snp.boot import OBJECTS, Guest, Parts, command
from tests.snp.conftest import Define
from tests.snp.test_snp_boot import predicted_digest
from tests.snp.test_vm_snp import wait_for_words

NONCE = b"what the verifier has chosen"
SIGNED, FAMILY, MODEL = 0x2A0, 0x188, 0x189
# SHA-256 of the test root's certificate: a constant of the emulation, as AMD's is of a processor.
ROOT = bytes.fromhex("8e6a15ed9841e9768d7205c560153d6097856dd92911f7cdc601f3988a099d50")
Chain = tuple[x509.Certificate, x509.Certificate, x509.Certificate]


@pytest.fixture(scope="module")
def guest(
    parts: Parts, asking_kernel: Kernel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Guest]:
    """A guest with 2 vCPUs and that kernel, for all who ask it."""
    mine = replace(parts, vmlinuz=asking_kernel.vmlinuz, initrd=asking_kernel.initrd)
    made = Guest(command(mine, OBJECTS["sev-snp"]), tmp_path_factory.mktemp("g"))
    try:
        made.ready()
        made.run(LOAD)
        yield made
    finally:
        made.end()


def chain(query: dict[str, Any]) -> Chain:
    """VCEK, ASK, ARK as the monitor gives them."""
    vcek, ask_, ark = x509.load_pem_x509_certificates(query["certificates"].encode())
    return vcek, ask_, ark


def checked(report: bytes, certificates: Chain, policy: Policy, root: bytes = ROOT) -> Report:
    """By the independent library, with the root pinned as for AMD's."""
    vcek, ask_, ark = (certificate.public_bytes(Encoding.DER) for certificate in certificates)
    return verify(report, vcek, ask_, ark, root, policy)


def patch_levels(vcek: x509.Certificate) -> list[bytes]:
    """The extensions spl_1 to spl_8, DER, as AMD's document 57230 numbers them."""
    numbers = (x509.ObjectIdentifier(f"1.3.6.1.4.1.3704.1.3.{n}") for n in range(1, 9))
    values = (vcek.extensions.get_extension_for_oid(number).value for number in numbers)
    return [value.value for value in values if isinstance(value, x509.UnrecognizedExtension)]


def test_an_independent_library_verifies_the_report(guest: Guest, parts: Parts) -> None:
    measured = predicted_digest(parts.ovmf)
    assert guest.query()["launch-digest"] == measured
    nonce = NONCE.ljust(64, b"\0")
    policy = Policy(measurement=bytes.fromhex(measured), report_data=nonce, max_vmpl=0)
    report, certificates = ask(guest, NONCE), chain(guest.query())
    found = checked(report, certificates, policy)
    assert (found.version, found.vmpl, found.host_data) == (3, 0, bytes(32))
    # What virtee's library, in dk-tee-attestation, knows a Milan by; it refuses 17h.
    assert report[FAMILY] == 0x19 and report[MODEL] < 0x10
    # Of the patch levels, those that no processor uses yet are 0.
    assert patch_levels(certificates[0])[3:7] == [b"\x02\x01\x00"] * 4

    def refused(report: bytes, policy: Policy, root: bytes = ROOT) -> FailKind:
        with pytest.raises(Fail) as error:
            checked(report, certificates, policy, root)
        return error.value.kind

    for at in (0x08, 0x90, 0x50, 0x1A0):  # policy, measurement, report data, chip
        spoiled = bytearray(report)
        spoiled[at] ^= 1
        assert refused(bytes(spoiled), Policy()) is FailKind.REPORT_SIGNATURE
    assert refused(report, Policy(measurement=bytes(48))) is FailKind.MEASUREMENT
    assert refused(report, Policy(report_data=bytes(64))) is FailKind.REPORT_DATA
    assert refused(report, Policy(), bytes(32)) is FailKind.ARK_NOT_PINNED
    assert ask(guest, NONCE)[:0x40] == report[:0x40]  # the counter of messages goes on


def test_a_guest_with_hvcpus_reports_what_cpcctl_predicted(
    place: Settings, define: Define, cli: Cli, asking_kernel: Kernel
) -> None:
    path = str(
        define(
            kernel=str(asking_kernel.vmlinuz),
            initrd=str(asking_kernel.initrd),
            **{"sev-snp": {"host_data": "5a" * 32}},
        )
    )
    printed = json.loads(cli("vm", "start", path, "--print-command", "--format", "json")[1])
    assert cli("vm", "start", path)[0] == 0
    vm = lifecycle.attach(place, "a")
    confined.check(vm.process.pid)
    wait_for_words(vm.paths.console_log, "CPC-READY")
    with Console(vm.paths.console) as shell:  # not before: who does not read holds it up
        shell.run(LOAD)
        report = ask(shell, NONCE)
    with vm.qmp() as qmp:
        certificates = chain(qmp.execute("query-sev-emulation"))
    measured = bytes.fromhex(printed["launch_digest"])
    policy = Policy(measurement=measured, report_data=NONCE.ljust(64, b"\0"), max_vmpl=0)
    assert checked(report, certificates, policy).host_data == b"\x5a" * 32


def openssl(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["openssl", *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=patient(60.0),
    )  # fmt: skip


def test_openssl_verifies_the_report(guest: Guest, tmp_path: Path) -> None:
    report = ask(guest, NONCE)
    for name, certificate in zip(("vcek", "ask", "ark"), chain(guest.query()), strict=True):
        (tmp_path / f"{name}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    vcek, ask_, ark = (tmp_path / f"{name}.pem" for name in ("vcek", "ask", "ark"))
    done = openssl("verify", "-CAfile", ark, "-untrusted", ask_, vcek)
    assert done.stdout.strip() == f"{vcek}: OK", done.stderr

    r, s = (int.from_bytes(report[at : at + 72], "little") for at in (SIGNED, SIGNED + 72))
    (tmp_path / "signature").write_bytes(encode_dss_signature(r, s))
    (tmp_path / "key").write_text(openssl("x509", "-in", vcek, "-noout", "-pubkey").stdout)
    for body, words in (
        (report[:SIGNED], "Verified OK"),
        (report[: SIGNED - 1] + b"x", "Verification failure"),
    ):
        (tmp_path / "body").write_bytes(body)
        done = openssl(
            "dgst", "-sha384", "-verify", tmp_path / "key",
            "-signature", tmp_path / "signature", tmp_path / "body",
        )  # fmt: skip
        assert words in done.stdout, done.stderr
