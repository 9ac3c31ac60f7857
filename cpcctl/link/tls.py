# SPDX-License-Identifier: Apache-2.0
"""TLS 1.3 between the two hosts, authenticated both ways by the ticket.

The destination makes a certificate for one `receive`; the source pins its
fingerprint, so no certificate authority is involved. The source then proves
that it holds the ticket with a preamble of fixed size that is compared in
constant time. Until that comparison has succeeded nothing else is read.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import hmac
import socket
import ssl
import time
from dataclasses import dataclass
from pathlib import Path

from cpcctl.host import atomic
from cpcctl.link.ticket import SECRET_BYTES, Ticket

PREAMBLE = b"CPCLINK1"
CONTROL = b"C"
ACCEPTED = b"CPCOK001"
PREAMBLE_BYTES = len(PREAMBLE) + SECRET_BYTES


class LinkRefused(Exception):
    """The peer is not who the ticket says, or does not hold the ticket."""


class OwnTicket(LinkRefused):
    """The ticket was made by `receive` on this very host."""


@dataclass(frozen=True)
class Identity:
    """A certificate made for one `receive`; files with mode 0600."""

    certificate: Path
    key: Path
    fingerprint: bytes


def make_identity(folder: Path, host_id: str) -> Identity:
    """Write a fresh P-256 key and self-signed certificate into folder.

    host_id: who makes it, see host.identity; the certificate's subject
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"cpcctl receive {host_id}")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .sign(key, hashes.SHA256())
    )
    der = certificate.public_bytes(serialization.Encoding.DER)
    identity = Identity(folder / "link.crt", folder / "link.key", hashlib.sha256(der).digest())
    atomic.write_new(identity.certificate, certificate.public_bytes(serialization.Encoding.PEM))
    atomic.write_new(
        identity.key,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
    return identity


def load_identity(folder: Path) -> Identity:
    """The identity an earlier `make_identity` wrote. :raise OSError: when gone."""
    pem = (folder / "link.crt").read_text(encoding="ascii")
    der = ssl.PEM_cert_to_DER_cert(pem)
    return Identity(folder / "link.crt", folder / "link.key", hashlib.sha256(der).digest())


def server_context(identity: Identity) -> ssl.SSLContext:
    """What the destination listens with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.load_cert_chain(identity.certificate, identity.key)
    return context


def connect(ticket: Ticket, timeout: float, host_id: str = "") -> ssl.SSLSocket:
    """Reach the destination and prove the ticket.

    host_id: that of this host, when it must be another one
    :raise LinkRefused: another certificate, or the secret was refused.
    :raise OwnTicket: the destination is this host.
    :raise OSError: unreachable within timeout seconds, or the connection broke.
    """
    raw = socket.create_connection((ticket.host, ticket.port), timeout)
    try:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # pinned below instead
        raw.sendall(CONTROL)
        link = context.wrap_socket(raw)
    except BaseException:
        raw.close()
        raise
    try:
        certificate = link.getpeercert(binary_form=True) or b""
        if not hmac.compare_digest(hashlib.sha256(certificate).digest(), ticket.fingerprint):
            raise LinkRefused(f"{ticket.address} shows another certificate than the ticket names")
        if host_id and _made_by(certificate) == host_id:
            raise OwnTicket("this ticket is from this host")
        link.sendall(PREAMBLE + ticket.secret)
        try:
            answer = read_exact(link, len(ACCEPTED))
        except EOFError:
            raise LinkRefused(f"{ticket.address} does not accept this ticket") from None
        if answer != ACCEPTED:
            raise LinkRefused(f"{ticket.address} does not speak this version of the link")
    except BaseException:
        link.close()
        raise
    return link


def _made_by(certificate: bytes) -> str:
    """The id of the host that made a certificate; "" for none that says so."""
    from cryptography import x509

    try:
        subject = x509.load_der_x509_certificate(certificate).subject
        (name,) = subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    except ValueError:
        return ""
    return str(name.value).rpartition(" ")[2]


def accept(
    raw: socket.socket, context: ssl.SSLContext, secret: bytes, deadline: float
) -> ssl.SSLSocket:
    """The destination's half; raw is consumed and closed on failure.

    deadline: time.monotonic() by which handshake and preamble must be over.
    :raise LinkRefused: the peer does not hold the ticket.
    :raise OSError: no TLS, or the connection broke or timed out.
    """
    try:
        _until(raw, deadline)
        # The handshake as a whole gets the time that the socket has here.
        link = context.wrap_socket(raw, server_side=True, do_handshake_on_connect=False)
    except BaseException:
        raw.close()
        raise
    try:
        # Asked for by name: on connect it is left out for a socket that has ended.
        link.do_handshake()
        try:
            preamble = read_exact(link, PREAMBLE_BYTES, deadline)
        except EOFError:
            raise LinkRefused("the connection ended before the ticket was shown") from None
        if not hmac.compare_digest(preamble, PREAMBLE + secret):
            raise LinkRefused("a wrong ticket was shown")
        link.sendall(ACCEPTED)
    except BaseException:
        with contextlib.suppress(OSError):
            link.close()
        raise
    return link


def read_exact(link: socket.socket, size: int, deadline: float | None = None) -> bytes:
    """Exactly size bytes.

    deadline: time.monotonic() for all of them; without one the socket's own
    timeout counts, for each part that arrives.
    :raise EOFError: when the peer closed before.
    """
    buffer = bytearray(size)
    view = memoryview(buffer)
    got = 0
    while got < size:
        if deadline is not None:
            _until(link, deadline)
        step = link.recv_into(view[got:])
        if step == 0:
            raise EOFError(f"connection closed after {got} of {size} bytes")
        got += step
    return bytes(buffer)


def _until(link: socket.socket, deadline: float) -> None:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the handshake took too long")
    link.settimeout(left)
