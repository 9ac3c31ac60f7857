# SPDX-License-Identifier: Apache-2.0
"""What each firmware status means, in words an operator understands."""

from __future__ import annotations

from cpcctl import abi

SENTENCES: dict[int, str] = {
    abi.S_OK: "done",
    abi.S_UNKNOWN_OP: "this firmware does not know the call",
    abi.S_BAD_ARGUMENT: "an argument of the call is out of range",
    abi.S_BAD_PAYLOAD: "the call's payload has the wrong size or content",
    abi.S_CANCELLED: "the call was cancelled",
    abi.S_BUSY: "another hvCPU is in that call",
    abi.S_NO_SESSION: "no migration session is open",
    abi.S_WRONG_PHASE: "the session is not in the phase this call needs",
    abi.S_WRONG_ROLE: "the call belongs to the other side of the migration",
    abi.S_PEER_WIRE: "the other firmware speaks another wire version",
    abi.S_PEER_PLATFORM: "the other firmware runs on another platform",
    abi.S_PEER_REGIONS: "the RAM blocks of the two machines differ",
    abi.S_PEER_GVCPUS: "the two machines have different gvCPUs",
    abi.S_NO_SUITE: "no cipher suite is allowed on both sides",
    abi.S_PEER_KEY: "the other firmware's key is not valid",
    abi.S_CONFIRMATION: "the keys of the two sides differ: someone is in between",
    abi.S_SESSION_FAILED: "an earlier error ended the session",
    abi.S_SESSION_EXISTS: "an earlier session is still open",
    abi.S_NO_ENTROPY: "the CPU gives no random numbers",
    abi.S_WIRE_MAGIC: "the stream is out of step",
    abi.S_WIRE_VERSION: "a record has another wire version",
    abi.S_WIRE_TYPE: "a record has an unknown type",
    abi.S_WIRE_LENGTH: "a record's length is not possible",
    abi.S_WIRE_SUITE: "a record uses another cipher suite than agreed",
    abi.S_WIRE_STREAM: "a record belongs to another stream",
    abi.S_WIRE_DIRECTION: "a record comes from the wrong direction",
    abi.S_WIRE_EPOCH: "a record belongs to another epoch",
    abi.S_WIRE_SESSION: "a record belongs to another session",
    abi.S_WIRE_SEQUENCE: "a record was replayed, reordered or lost",
    abi.S_WIRE_TAG: "a record was altered",
    abi.S_WIRE_ADDRESS: "a record's address is outside the memory map",
    abi.S_WIRE_KIND: "a record's page kind is not possible",
    abi.S_WIRE_PAGE_VERSION: "a page is not newer than what is there",
    abi.S_WIRE_COUNT: "a record's count is not possible",
    abi.S_WIRE_PADDING: "a record's padding is not zero",
    abi.S_WIRE_AFTER_END: "a record came after the end of its stream",
    abi.S_WIRE_OWNER: "an address belongs to another stream",
    abi.S_INCOMPLETE: "a stream has not ended",
    abi.S_MANIFEST_PAGES: "a page is missing, stale or too many",
    abi.S_MANIFEST_STREAMS: "the manifest counts other streams than arrived",
    abi.S_MANIFEST_VMSA: "the gvCPU states are not those of the manifest",
    abi.S_MANIFEST_DEVICES: "the device state loaded is not the one sent",
    abi.S_TOKEN: "the token is malformed or of the wrong type",
    abi.S_TOKEN_SESSION: "the token belongs to another session",
    abi.S_TOKEN_SIGNATURE: "the token's signature is wrong",
    abi.S_COMMITTED: "the source has committed; only the destination's ABORT lets it resume",
    abi.S_DISKS: "the disks are in the wrong state for this step",
    abi.S_DEVICE_STATE: "no device state was saved or loaded since the freeze",
    abi.S_PLATFORM: "the platform refused",
    abi.S_FAULT: "the firmware met an exception",
    abi.S_CRYPTO: "the cryptography library failed",
    abi.S_KNOWN_ANSWER: "no cipher suite computes correctly on this CPU",
    abi.S_TOO_LARGE: "the guest is larger than trusted memory allows",
    abi.S_RING: "the ring's head or tail is not possible",
    abi.S_BOOT_INFO: "the platform's boot information is not valid",
    abi.S_HARDWARE: "a SEV-SNP instruction or request to the hypervisor failed",
}

NAMES: dict[int, str] = {
    value: name[2:] for name, value in vars(abi).items() if name.startswith("S_")
}
OP_NAMES: dict[int, str] = {
    value: name[3:]
    for name, value in vars(abi).items()
    if name.startswith("OP_") and isinstance(value, int)
}
PCALL_NAMES: dict[int, str] = {
    value: name[6:] for name, value in vars(abi).items() if name.startswith("PCALL_")
}
P_NAMES: dict[int, str] = {
    value: name[2:] for name, value in vars(abi).items() if name.startswith("P_")
}
SUITE_NAMES: dict[int, str] = {
    abi.SUITE_AEGIS128L: "aegis-128l",
    abi.SUITE_AEGIS128X2: "aegis-128x2",
    abi.SUITE_AES256GCM: "aes-256-gcm",
    abi.SUITE_CHACHA20POLY1305: "chacha20-poly1305",
}
PLATFORM_NAMES: dict[int, str] = {abi.PLATFORM_PLAIN: "plain", abi.PLATFORM_SEV_SNP: "sev-snp"}


def describe(status: int) -> str:
    """"WIRE_TAG (310): a record was altered"; unknown numbers say so."""
    name = NAMES.get(status, "UNKNOWN")
    return f"{name} ({status}): {SENTENCES.get(status, 'this controller does not know the status')}"


def platform_call(call: int, answer: int) -> str:
    """"GVCPU BAD_STATE (13, 2)": which call of the firmware was refused, and how."""
    name, code = PCALL_NAMES.get(call, "UNKNOWN"), P_NAMES.get(answer, "UNKNOWN")
    words = f"{name} {code} ({call}, {answer})"
    if (call, answer) == (abi.PCALL_GVCPU, abi.P_BAD_STATE):
        words += ": the guest is creating a vCPU anew in this moment, try again"
    return words


# What the firmware asked of an SEV-SNP processor or its host; see docs/abi.md.
HARDWARE: dict[int, str] = {
    1: "PVALIDATE", 2: "RMPADJUST", 3: "a request to the hypervisor", 4: "a page state change",
    5: "the creation of a vCPU", 6: "a page that became unreadable",
    7: "a page that cannot be where the host says", 8: "RMPQUERY",
}  # fmt: skip
UNCHANGED = 0x100


def hardware(what: int, answer: int) -> str:
    """"RMPQUERY (8, 0x100): ...": what failed, and the processor's or the host's answer."""
    words = f"{HARDWARE.get(what, 'UNKNOWN')} ({what}, {answer:#x})"
    if (what, answer) == (1, UNCHANGED):
        words += ": the page was in that state already; the host has hidden or exchanged it"
    if (what, answer) == (8, UNCHANGED):
        words += ": the page that the host named for a gvCPU is not a save area"
    return words


def suites(mask: int) -> list[str]:
    """Names of the suites in a mask, lowest number first."""
    return [name for suite, name in sorted(SUITE_NAMES.items()) if mask & abi.SUITE_BIT(suite)]
