# SPDX-License-Identifier: Apache-2.0
"""How a migration ended: where the guest is, and the error that says so. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from cpcctl.errors import RESTORE, CpcError, ExitCode
from cpcctl.migrate.machine import Phase
from cpcctl.vm.ending import Ending

# For sentences such as "the guest shut down during the copy".
WHEN = {
    Phase.PREFLIGHT: "before the copy",
    Phase.HANDSHAKE: "before the copy",
    Phase.COPY: "during the copy",
    Phase.COMMIT: "after the commit",
    Phase.RUN: "after the commit",
}


# Of a source that has committed, once no destination can sign that it aborted.
NEVER_RUNS = "what is left of it can never run"


class Place(Enum):
    """Where the guest is."""

    SOURCE = "runs on the source"
    DESTINATION = "runs on the destination"
    STOPPED = "ended by itself, and is stopped on the source"
    ENDED = "ended by itself on the destination, and is stopped there"
    LOST = "is lost"
    UNKNOWN = "is not proven to be on either host"


@dataclass(frozen=True)
class Outcome:
    """error: None when the guest moved, else its exit code says where the guest is."""

    place: Place
    error: CpcError | None = None

    def __post_init__(self) -> None:
        assert (self.error is None) == (self.place is Place.DESTINATION)


MOVED = Outcome(Place.DESTINATION)


def stays(cause: CpcError, name: str, host: str, code: ExitCode = ExitCode.FAILED) -> Outcome:
    """It is confirmed on the source."""
    cause.exit_code = code
    cause.message += f"; VM {name} runs on {host}"
    return Outcome(Place.SOURCE, cause)


def lost(
    cause: CpcError, name: str, *, by_word_of: str | None = None, frozen_on: str | None = None
) -> Outcome:
    """Nothing can bring it back.

    by_word_of: the host that alone says so
    frozen_on: this host, where QEMU still has what was given away
    """
    cause.exit_code = ExitCode.LOST
    word = "" if by_word_of is None else f" by the word of {by_word_of}"
    cause.message += f"; VM {name} is lost{word}"
    ways = [RESTORE]
    if by_word_of is not None:
        ways.insert(0, f"cpcctl vm status {name}, on {by_word_of}: whether that is so")
    if frozen_on is not None:
        ways.append(f"{stop_frozen(name)}, on {frozen_on}: {NEVER_RUNS}")
    cause.hint = "\n".join(ways)
    return Outcome(Place.LOST, cause)


def stop_frozen(name: str) -> str:
    """The command that ends a QEMU which holds no more than what was given away."""
    return f"cpcctl vm stop --force {name}"


def stopped(words: str, phase: Phase, name: str, host: str, definition: str) -> Outcome:
    """The guest ended itself before it was given away. words: how."""
    when = WHEN.get(phase, "during the switchover")
    return Outcome(
        Place.STOPPED,
        CpcError(
            f"{words} {when}; VM {name} is stopped on {host}",
            exit_code=ExitCode.ENDED,
            host=host,
            hint=f"cpcctl vm start {definition}",
        ),
    )


def ended_there(cause: CpcError, name: str, there: str, here: str) -> Outcome:
    """The guest was given away, ran and ended itself, before the source had proof of that."""
    return Outcome(
        Place.ENDED,
        CpcError(
            f"the guest of VM {name} ended by itself right after the switchover; it is stopped "
            f"on {there}",
            exit_code=ExitCode.ENDED,
            host=there,
            cause=cause.cause,
            hint=f"cpcctl vm status {name}, on {there}\n"
            f"{stop_frozen(name)}, on {here}: {NEVER_RUNS}",
        ),
    )


def ended_since(name: str, host: str, ending: Ending) -> CpcError:
    """The guest ran on the destination, whose QEMU is gone."""
    return CpcError(
        f"VM {name} arrived on {host}; then {ending.words}",
        exit_code=ExitCode.ENDED if ending.by_guest else ExitCode.LOST,
        host=host,
        hint=f"cpcctl vm status {name}",
    )


def not_given_up(name: str, host: str, job: str, why: str) -> CpcError:
    """The destination cannot abort: the guest may run there, or may yet."""
    return CpcError(
        f"cannot abort the incoming migration of VM {name} on {host}",
        exit_code=ExitCode.UNPROVEN,
        host=host,
        cause=why,
        hint=f"cpcctl vm status {name}, on both hosts\n"
        f"cpcctl job resume {job}, when its QEMU answers",
    )


def unproven(cause: CpcError, name: str, job: str, trouble: Exception | None) -> Outcome:
    """Nobody can say where it is. trouble: what went wrong while that was asked."""
    words = [cause.cause or cause.message]
    if trouble is not None:
        words.append(f"then: {said(trouble)}")
    return Outcome(
        Place.UNKNOWN,
        CpcError(
            f"{cause.message}; where VM {name} is has not been proven",
            exit_code=ExitCode.UNPROVEN,
            host=cause.host,
            cause="\n".join(words),
            hint=f"cpcctl vm status {name}, on both hosts\n"
            f"cpcctl job resume {job}, when both hosts can be reached",
        ),
    )


def ask_again(trouble: CpcError, name: str, job: str) -> str:
    """The hint for a machine that lives and could not be asked."""
    # What refuses to be asked says what it lacks, such as a living hvCPU.
    refused = trouble.exit_code is ExitCode.REFUSED and trouble.hint
    return f"{refused or f'cpcctl vm status {name}'}\ncpcctl job resume {job}, after that"


def said(error: Exception) -> str:
    """An error in one line, its cause with it."""
    if isinstance(error, CpcError):
        return f"{error.message}: {error.cause}" if error.cause else error.message
    return str(error)
