# SPDX-License-Identifier: Apache-2.0
"""AEGIS-128L and AEGIS-128X2 in plain Python, written from the specification.

Slow and only for tests: an implementation that shares no line with the one the
firmware uses, so that the long known answers do not come from the library they
check. Keys and nonces are 16 bytes, tags 32.
"""

from __future__ import annotations

C0 = bytes.fromhex("000101020305080d1522375990e97962")
C1 = bytes.fromhex("db3d18556dc22ff12011314273b528dd")


def _sbox() -> bytes:
    """The AES S-box, from its definition in GF(2^8)."""
    box = [0x63] * 256
    p = q = 1
    while True:
        p ^= (p << 1) & 0xFF ^ (0x1B if p & 0x80 else 0)
        q ^= q << 1
        q ^= q << 2
        q ^= q << 4
        q &= 0xFF
        if q & 0x80:
            q ^= 0x09
        rot = [(q << n | q >> (8 - n)) & 0xFF for n in range(5)]
        box[p] = rot[0] ^ rot[1] ^ rot[2] ^ rot[3] ^ rot[4] ^ 0x63
        if p == 1:
            return bytes(box)


SBOX = _sbox()


def _double(x: int) -> int:
    return (x << 1) & 0xFF ^ (0x1B if x & 0x80 else 0)


def aes_round(block: bytes, key: bytes) -> bytes:
    """One AES encryption round: SubBytes, ShiftRows, MixColumns, AddRoundKey."""
    out = bytearray(16)
    for column in range(4):
        a = [SBOX[block[(4 * column + 5 * row) % 16]] for row in range(4)]
        total = a[0] ^ a[1] ^ a[2] ^ a[3]
        for row in range(4):
            out[4 * column + row] = (
                a[row] ^ total ^ _double(a[row] ^ a[(row + 1) % 4]) ^ key[4 * column + row]
            )
    return bytes(out)


def _xor(*parts: bytes) -> bytes:
    value = 0
    for part in parts:
        value ^= int.from_bytes(part, "little")
    return value.to_bytes(len(parts[0]), "little")


def _and(a: bytes, b: bytes) -> bytes:
    return (int.from_bytes(a, "little") & int.from_bytes(b, "little")).to_bytes(len(a), "little")


class _State:
    """Eight blocks of 16 bytes a lane; a lane is an independent AES state."""

    def __init__(self, key: bytes, nonce: bytes, lanes: int) -> None:
        self.lanes = lanes
        self.width = 16 * lanes
        k, n, c0, c1 = (x * lanes for x in (key, nonce, C0, C1))
        self.s = [_xor(k, n), c1, c0, c1, _xor(k, n), _xor(k, c0), _xor(k, c1), _xor(k, c0)]
        lane_ids = b"".join(bytes([i, lanes - 1]) + bytes(14) for i in range(lanes))
        for _ in range(10):
            if lanes > 1:
                self.s[3] = _xor(self.s[3], lane_ids)
                self.s[7] = _xor(self.s[7], lane_ids)
            self.update(n, k)

    def _round(self, block: bytes, key: bytes) -> bytes:
        return b"".join(
            aes_round(block[i : i + 16], key[i : i + 16]) for i in range(0, self.width, 16)
        )

    def update(self, m0: bytes, m1: bytes) -> None:
        s = self.s
        new = [self._round(s[(i - 1) % 8], s[i]) for i in range(8)]
        new[0] = _xor(new[0], m0)
        new[4] = _xor(new[4], m1)
        self.s = new

    def keystream(self) -> tuple[bytes, bytes]:
        s = self.s
        return _xor(s[6], s[1], _and(s[2], s[3])), _xor(s[2], s[5], _and(s[6], s[7]))


def seal(key: bytes, nonce: bytes, aad: bytes, message: bytes, lanes: int) -> tuple[bytes, bytes]:
    """Return ciphertext and the 32-byte tag; lanes is 1 for 128L, 2 for 128X2."""
    state = _State(key, nonce, lanes)
    width = state.width
    rate = 2 * width
    padded = aad + bytes(-len(aad) % rate)
    for i in range(0, len(padded), rate):
        state.update(padded[i : i + width], padded[i + width : i + rate])
    out = bytearray()
    padded = message + bytes(-len(message) % rate)
    for i in range(0, len(padded), rate):
        z0, z1 = state.keystream()
        m0, m1 = padded[i : i + width], padded[i + width : i + rate]
        out += _xor(m0, z0) + _xor(m1, z1)
        state.update(m0, m1)
    lengths = (8 * len(aad)).to_bytes(8, "little") + (8 * len(message)).to_bytes(8, "little")
    t = _xor(state.s[2], lengths * lanes)
    for _ in range(7):
        state.update(t, t)
    low, high = _xor(*state.s[0:4]), _xor(*state.s[4:8])
    tag = bytes(16)
    tag2 = bytes(16)
    for i in range(0, width, 16):
        tag = _xor(tag, low[i : i + 16])
        tag2 = _xor(tag2, high[i : i + 16])
    return bytes(out[: len(message)]), tag + tag2
