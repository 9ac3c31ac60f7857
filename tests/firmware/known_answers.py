# SPDX-License-Identifier: Apache-2.0
"""Prints guest-agent/firmware/core/crypto_kat_data.c: python3 -m tests.firmware.known_answers.

Short vectors are published ones, typed in below with their answers. Published
vectors are shorter than the bulk paths of an implementation, so each suite also
has a long one, computed here by an implementation the firmware does not use:
reference_aegis.py, and OpenSSL through the cryptography package.
"""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tests.firmware.reference_aegis import seal as aegis_seal

LONG = 5003
PATTERN = bytes((i * 167 + (i >> 8) * 13 + 5) & 0xFF for i in range(LONG))
LONG_AAD = bytes(range(64))

SUNSCREEN = (
    b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the "
    b"future, sunscreen would be it."
)

# suite, where it is from, key, nonce, aad, plaintext, ciphertext, tag
SHORT: list[tuple[str, str, str, str, str, str, str, str]] = [
    (
        "AEGIS128L",
        "draft-irtf-cfrg-aegis-aead, AEGIS-128L test vector 1",
        "10010000000000000000000000000000",
        "10000200000000000000000000000000",
        "",
        "00" * 16,
        "c1c0e58bd913006feba00f4b3cc3594e",
        "25835bfbb21632176cf03840687cb968cace4617af1bd0f7d064c639a5c79ee4",
    ),
    (
        "AEGIS128L",
        "the same, test vector 3",
        "10010000000000000000000000000000",
        "10000200000000000000000000000000",
        "0001020304050607",
        bytes(range(32)).hex(),
        "79d94593d8c2119d7e8fd9b8fc77845c5c077a05b2528b6ac54b563aed8efe84",
        "022cb796fe7e0ae1197525ff67e309484cfbab6528ddef89f17d74ef8ecd82b3",
    ),
    (
        "AEGIS128X2",
        "the same, AEGIS-128X2 test vector 2",
        "000102030405060708090a0b0c0d0e0f",
        "101112131415161718191a1b1c1d1e1f",
        "0102030401020304",
        "04050607" * 30,
        "5795544301997f93621b278809d6331b3bfa6f18e90db12c4aa35965b5e98c5f"
        "c6fb4e54bcb6111842c20637252eff747cb3a8f85b37de80919a589fe0f24872"
        "bc926360696739e05520647e390989e1eb5fd42f99678a0276a498f8c454761c"
        "9d6aacb647ad56be62b29c22cd4b5761b38f43d5a5ee062f",
        "c471876f9b4978c44f2ae1ce770cdb11a094ee3feca64e7afcd48bfe52c60eca",
    ),
    (
        "AES256GCM",
        "the GCM specification submitted to NIST, test case 16",
        "feffe9928665731c6d6a8f9467308308" * 2,
        "cafebabefacedbaddecaf888",
        "feedfacedeadbeeffeedfacedeadbeefabaddad2",
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
        "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
        "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662",
        "76fc6ece0f4e1768cddf8853bb2d551b",
    ),
    (
        "CHACHA20POLY1305",
        "RFC 8439, section 2.8.2",
        bytes(range(0x80, 0xA0)).hex(),
        "070000004041424344454647",
        "50515253c0c1c2c3c4c5c6c7",
        SUNSCREEN.hex(),
        "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d6"
        "3dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36"
        "92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc"
        "3ff4def08e4b7a9de576d26586cec64b6116",
        "1ae10b594f09e26a7e902ecbd0600691",
    ),
]

# RFC 7748, section 6.1: Bob's private key, Alice's public key, their secret.
X25519_PRIVATE = "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"
X25519_PEER = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
X25519_SHARED = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
# RFC 6979, appendix A.2.6: P-384, SHA-384, message "sample".
P384_X = (
    "ec3a4e415b4e19a4568618029f427fa5da9a8bc4ae92e02e06aae5286b300c64"
    "def8f0ea9055866064a254515480bc13"
)
P384_Y = (
    "8015d9b72d7d57244ea8ef9ac0c621896708a59367f9dfb9f54ca84b3f1c9db1"
    "288b231c3ae0d4fe7344fd2533264720"
)
P384_R = (
    "94edbb92a5ecb8aad4736e56c691916b3f88140666ce9fa73d64c4ea95ad133c"
    "81a648152e44acf96e36dd1e80fabe46"
)
P384_S = (
    "99ef4aeb15f178cea1fe40db2603138f130e740a19624526203b6351d0a3a94f"
    "a329c145786e679e7b82c71a38628ac8"
)


def long_vectors() -> list[tuple[str, bytes, bytes, bytes, bytes]]:
    """(suite, key, nonce, ciphertext, tag) over PATTERN with LONG_AAD."""
    key, nonce = bytes(range(1, 33)), bytes(range(0x40, 0x50))
    out = []
    for suite, lanes in (("AEGIS128L", 1), ("AEGIS128X2", 2)):
        ciphertext, tag = aegis_seal(key[:16], nonce, LONG_AAD, PATTERN, lanes)
        out.append((suite, key[:16], nonce, ciphertext, tag))
    for suite, cipher in (
        ("AES256GCM", AESGCM(key)),
        ("CHACHA20POLY1305", ChaCha20Poly1305(key)),
    ):
        sealed = cipher.encrypt(nonce[:12], PATTERN, LONG_AAD)
        out.append((suite, key, nonce[:12], sealed[:-16], sealed[-16:]))
    return out


def hkdf_answer() -> bytes:
    """The inputs of RFC 5869, test case 1, with SHA-384."""
    kdf = HKDF(hashes.SHA384(), 42, bytes(range(13)), b"cpc known answer")
    return kdf.derive(b"\x0b" * 22)


def c_bytes(field: str, value: bytes, indent: str = "        ") -> str:
    """One C designated initialiser; nothing for an empty value."""
    if not value:
        return ""
    lines = [
        indent + "    " + " ".join(f"0x{b:02x}," for b in value[i : i + 12])
        for i in range(0, len(value), 12)
    ]
    return f"{indent}.{field} = {{\n" + "\n".join(lines) + f"\n{indent}}},\n"


def c_suite(note: str, suite: str, pattern: int, size: int, fields: dict[str, bytes]) -> str:
    """One struct crypto_kat_suite."""
    text = f"    {{   /* {note} */\n        .suite = CPC_SUITE_{suite},\n"
    text += f"        .pattern = {pattern},\n        .size = {size},\n"
    text += f"        .aad_size = {len(fields['aad'])},\n"
    text += "".join(c_bytes(name, value) for name, value in fields.items())
    return text + "    },\n"


def render() -> str:
    """The whole C file."""
    text = """/* SPDX-License-Identifier: Apache-2.0 */
/* Known answers. Written by tests/firmware/known_answers.py: change that. */
#include "crypto_internal.h"

const struct crypto_kat_suite crypto_kat_suites[] = {
"""
    for suite, note, *values in SHORT:
        key, nonce, aad, plain, cipher, tag = (bytes.fromhex(v) for v in values)
        names = ("key", "nonce", "aad", "plaintext", "ciphertext", "tag")
        fields = dict(zip(names, (key, nonce, aad, plain, cipher, tag), strict=True))
        text += c_suite(note, suite, 0, len(plain), fields)
    for suite, key, nonce, ciphertext, tag in long_vectors():
        digest = hashlib.sha256(ciphertext).digest()
        fields = {"key": key, "nonce": nonce, "aad": LONG_AAD, "ciphertext": digest, "tag": tag}
        text += c_suite("long: SHA-256 of the ciphertext", suite, 1, LONG, fields)
    text += "};\n\nconst size_t crypto_kat_suites_count =\n"
    text += "    sizeof crypto_kat_suites / sizeof crypto_kat_suites[0];\n\n"
    text += "const struct crypto_kat_primitives crypto_kat_primitives = {\n"
    for name, value in {
        "sha256_abc": hashlib.sha256(b"abc").digest(),
        "sha384_abc": hashlib.sha384(b"abc").digest(),
        "sha256_long": hashlib.sha256(PATTERN).digest(),
        "sha384_long": hashlib.sha384(PATTERN).digest(),
        "hkdf": hkdf_answer(),
        "x25519_private": bytes.fromhex(X25519_PRIVATE),
        "x25519_peer": bytes.fromhex(X25519_PEER),
        "x25519_shared": bytes.fromhex(X25519_SHARED),
        "ecdsa_public": b"\x04" + bytes.fromhex(P384_X + P384_Y),
        "ecdsa_signature": bytes.fromhex(P384_R + P384_S),
    }.items():
        text += c_bytes(name, value, "    ")
    return text + "};\n"


if __name__ == "__main__":
    print(render(), end="")
