#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# omne-attest 0.1.0 refuses the VCEK of one SEV-SNP chip in some thousand.
#
# AMD 57230 (VCEK certificates) puts the 64 bytes of the chip's id into the extension
# 1.3.6.1.4.1.3704.1.4 as they are, without a DER wrapping of their own. The package unwraps a
# value that begins with 4 all the same, so an id whose second byte gives a length that fits is cut
# short, and the certificate "belongs to a different chip". Any other id is taken as it is.
#
# Seen: an id of 04 10 ... raises CHIP_ID_MISMATCH, the same id with another first byte verifies.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q omne-attest==0.1.0 cryptography==46.0.3
"$folder/venv/bin/python" - <<'PYTHON'
import datetime
from importlib.metadata import version

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from omne_attest import snp

AMD = "1.3.6.1.4.1.3704.1."
SPLS = {"3.1": 4, "3.2": 0, "3.3": 22, "3.8": 211}


def vcek(chip_id):
    """A certificate with the extensions of a VCEK; nobody's signature, which is not asked for."""
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "SEV-VCEK")])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).serial_number(1)
        .public_key(key.public_key()).not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
    )
    values = {f"3.{oid.split('.')[1]}": bytes([2, 2, 0, n] if n > 127 else [2, 1, n])
              for oid, n in SPLS.items()}
    for oid, value in {**values, "4": chip_id}.items():
        extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(AMD + oid), value)
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, hashes.SHA384()).public_bytes(Encoding.DER)


def report(chip_id):
    """A report of version 3 of that chip."""
    tcb = bytes([SPLS["3.1"], SPLS["3.2"], 0, 0, 0, 0, SPLS["3.3"], SPLS["3.8"]])
    data = bytearray(1184)
    data[0], data[0x34] = 3, 1
    data[0x180:0x188], data[0x1A0:0x1E0] = tcb, chip_id
    return snp.Report.parse(bytes(data))


def verdict(chip_id):
    try:
        report(chip_id).verify_vcek_binding(vcek(chip_id))
    except snp.Fail as fail:
        return fail.kind.value
    return "verified"


rest = bytes(range(62))
found = {first: verdict(bytes([first, 0x10]) + rest) for first in (0x04, 0x84)}
print(f"omne-attest {version('omne-attest')}: id 04 10 ...: {found[4]}; 84 10 ...: {found[0x84]}")
assert found == {0x04: "chip_id_mismatch", 0x84: "verified"}, found
PYTHON
