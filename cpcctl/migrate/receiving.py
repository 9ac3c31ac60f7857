# SPDX-License-Identifier: Apache-2.0
"""The life of one `receive`: listen, serve the source, wait for it when it is lost."""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
import socket
import ssl
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from cpcctl.config.patience import patient
from cpcctl.config.settings import Settings
from cpcctl.errors import CpcError, ExitCode, quoted, reason
from cpcctl.host import find
from cpcctl.host.folders import make_folder
from cpcctl.host.identity import host_id
from cpcctl.host.state import Folders, VmLock, disk_error
from cpcctl.jobs.store import Job, JobStore
from cpcctl.link import rpc, tls
from cpcctl.link.listener import Listener
from cpcctl.link.ticket import SECRET_BYTES, Ticket, check_host
from cpcctl.migrate.destination import Destination
from cpcctl.migrate.events import Events
from cpcctl.migrate.messages import REQUESTS, Preflight, Prepare
from cpcctl.migrate.network import Network
from cpcctl.migrate.order import Stage
from cpcctl.migrate.recovery import outcome, stale
from cpcctl.migrate.side import Side
from cpcctl.migrate.standstill import Standstill
from cpcctl.ui import interrupts
from cpcctl.ui.context import Context
from cpcctl.ui.output import unwritable
from cpcctl.vm import live, registry

WILDCARDS = ("0.0.0.0", "::")
LOOK_SECONDS = patient(0.25)
# What a source can only wait for; how often it may ask for that is limited.
LONG_WORK = (Preflight, Prepare)
# In a job's data: its guest runs here, and the source has not said that it knows.
ARRIVED = "arrived"
STATES = {
    ExitCode.UNPROVEN: "unproven",
    ExitCode.REFUSED: "refused",
    ExitCode.LOST: "lost",
    ExitCode.HUNG_UP: "cancelled",
    ExitCode.INTERRUPTED: "cancelled",
    ExitCode.TERMINATED: "cancelled",
}


@dataclass(frozen=True)
class Wishes:
    """What the operator asked for; kept in the job for `job resume`. Seconds."""

    host: str
    port: int
    address: str | None
    taps: dict[str, str]
    wait: float | None
    grace: float
    peer_timeout: float
    allow_paths: str = ""  # as the setting: folders besides those that it names, by ':'
    ports: tuple[str, ...] = ()  # as network.port() gives them

    @property
    def network(self) -> Network:
        """What of this host's network the VM gets."""
        return Network(self.taps, frozenset(self.ports))


def receive(ctx: Context, wishes: Wishes, events: Events) -> int:
    """A fresh receive: ticket, wait, guest. The exit code."""
    folders = Folders.of(ctx.settings)
    address = _address(wishes)
    interrupts.defer()  # until _end can undo what is made here
    job = JobStore(folders.jobs).create("receive", "", ctx.settings.host)
    try:
        folder = make_folder(stale.link_folder(ctx.settings, job.id))
        identity = tls.make_identity(folder, host_id(ctx.settings.state_dir))
        secret = secrets.token_bytes(SECRET_BYTES)
        listener = Listener(wishes.host, wishes.port, tls.server_context(identity), secret)
        wishes = replace(wishes, port=listener.port)
        job.record.data.update(
            secret=base64.b64encode(secret).decode("ascii"), wishes=asdict(wishes)
        )
        job.phase("wait")
    except (CpcError, OSError) as error:
        failure = error if isinstance(error, CpcError) else disk_error(folders.jobs, error)
        stale.forget_secrets(ctx.settings, job.record)
        job.finish("failed", error=failure)
        raise failure from error
    ticket = Ticket(address, listener.port, identity.fingerprint, secret)
    try:
        events.waiting(ticket.text(), job.id, replace(ticket, host=wishes.host).address)
    except OSError as error:
        # Without its ticket nobody can come.
        listener.close()
        failure = unwritable(error)
        stale.forget_secrets(ctx.settings, job.record)
        job.finish("failed", error=failure)
        raise failure from error
    destination = Destination(_allowing(ctx, wishes), job, listener, wishes.network)
    _get_ready(ctx.settings)
    return _followed(ctx, events, destination, wishes, wishes.wait)


def _get_ready(settings: Settings) -> None:
    """Do what takes a while before a source comes, and would wait for it. What fails now, fails
    again then, and is said to the source as well."""
    import yaml  # noqa: F401  (for the definition)

    with contextlib.suppress(CpcError, OSError):
        binary = find.qemu_binary(settings)
        find.probe(binary, find.qemu_data(settings, binary))


def _address(wishes: Wishes) -> str:
    """What the ticket names. :raise CpcError: (2) no other host would come here by it."""
    address = wishes.address or (
        socket.gethostname() if wishes.host in WILDCARDS else wishes.host
    )
    try:
        if address != "localhost" or wishes.address:
            return check_host(f"[{address}]" if ":" in address else address)
    except CpcError:
        pass
    raise CpcError(
        f"another host cannot find this one by its name, {quoted(address)}",
        exit_code=ExitCode.USAGE,
        hint="cpcctl receive --address ADDRESS, with one that the source reaches",
    )


def resume(ctx: Context, job: Job) -> int:
    """Go on with a receive whose controller died; the same port and ticket."""
    data = job.record.data
    wishes = Wishes(**data["wishes"])
    try:
        identity = tls.load_identity(stale.link_folder(ctx.settings, job.id))
    except (OSError, ValueError) as error:
        raise CpcError(
            f"the key of job {job.id} is gone; no source can come back to it",
            exit_code=ExitCode.UNPROVEN,
            host=ctx.settings.host,
            cause=reason(error),
            hint=f"cpcctl job cancel {job.id}",
        ) from error
    secret = base64.b64decode(data["secret"])
    listener = Listener(wishes.host, wishes.port, tls.server_context(identity), secret)
    destination = Destination(_allowing(ctx, wishes), job, listener, wishes.network)
    destination.prepared = True  # it may have been; a source may need the answer
    name = data.get("launched")
    if "running" in data:
        destination.stage = Stage.RUNNING if _was_left(destination) else Stage.DEAD
    elif name:
        destination.lock = VmLock.take(Folders.of(ctx.settings), name, f"receive {job.id}")
        _attach_again(ctx, destination, name)
    elif data.get("abort"):
        destination.stage = Stage.ABORTED
    elif data.get("dead"):
        destination.stage = Stage.DEAD
    job.phase("wait")
    return _followed(ctx, Events(ctx), destination, wishes, wishes.grace)


def _followed(
    ctx: Context, events: Events, destination: Destination, wishes: Wishes, wait: float | None
) -> int:
    with events.following(destination):
        code = _end(ctx, destination.job, destination, wishes, wait)
    if events.stalled:
        # Python would wait for the lock of that stream, or abort.
        with contextlib.suppress(OSError):
            ctx.out.stdout.flush()
        os._exit(code)
    return code


def _attach_again(ctx: Context, destination: Destination, name: str) -> None:
    """Find the VM that a receive launched, or the proof that it is gone.

    :raise CpcError: (5) neither: nothing is touched, and it can be tried again.
    """
    # What became of a guest that ran here is another story.
    gone = Stage.RUNNING if ARRIVED in destination.job.record.data else Stage.DEAD
    try:
        destination.side = Side.attach(registry.attach(ctx.settings, name))
        destination.stage = Stage.BROKEN
        destination.refresh()
        if destination.stage is Stage.BROKEN and not destination.side.info()["frozen"]:
            # A guest that runs, and did not arrive: another VM was started since.
            destination.side.close()
            destination.side, destination.stage = None, gone
    except CpcError as error:
        if registry.gone(ctx.settings, name):
            if gone is Stage.DEAD:
                gone = destination.after_its_end(live.ended(Folders.of(ctx.settings).vm(name).log))
            destination.stage = gone
            return
        destination.close()
        destination.listener.close()
        failure = CpcError(
            f"QEMU of VM {name} on {ctx.settings.host} cannot be asked, and is not proven gone",
            exit_code=ExitCode.UNPROVEN,
            host=ctx.settings.host,
            cause=error.cause or error.message,
            hint=outcome.ask_again(error, name, destination.job.id),
        )
        destination.job.finish("unproven", error=failure)
        raise failure from error


def _was_left(destination: Destination) -> bool:
    """Whether a guest that ran here was left to itself: it runs, or what became of it was its own
    doing or an operator's, and no loss."""
    if ARRIVED in destination.job.record.data:
        return True  # that was said then
    ended = destination.ended_since()
    return ended is None or ended.exit_code is ExitCode.ENDED


def _allowing(ctx: Context, wishes: Wishes) -> Settings:
    """The settings with the folders that this receive allows besides."""
    both = ":".join(filter(None, (ctx.settings.allow_paths, wishes.allow_paths)))
    return replace(ctx.settings, allow_paths=both)


def _end(
    ctx: Context, job: Job, destination: Destination, wishes: Wishes, wait: float | None
) -> int:
    reason: CpcError | None = None
    interrupted = False
    try:
        interrupts.deliver()
        _serve(destination, wishes, wait)
    except KeyboardInterrupt as stop:
        interrupted = True
        reason = CpcError(
            "receive was interrupted",
            exit_code=interrupts.exit_code(stop),
            host=ctx.settings.host,
        )
    except CpcError as error:
        reason = error
    finally:
        interrupts.ignore()
        _settle(destination, reason or CpcError("the source left", host=ctx.settings.host))
        if interrupted and destination.stage is Stage.RUNNING and not destination.finished.is_set():
            # The source stands still until it knows.
            ctx.out.note(f"{job.record.vm} runs here; waiting until the source knows")
            with contextlib.suppress(CpcError):
                _serve(destination, wishes, wishes.grace)
        destination.listener.close()
        destination.close()
    interrupts.end_with(lambda: job.record.exit_code if job.ended else None)
    return _report(ctx, job, destination)


def _settle(destination: Destination, reason: CpcError) -> None:
    """However it came to its end: the guest runs here, or the migration is aborted here."""
    try:
        _abandon(destination, reason)
    except CpcError as worse:
        destination.error = worse


def _serve(destination: Destination, wishes: Wishes, wait: float | None) -> None:
    """Serve one source after the other until the guest is settled."""
    still = Standstill()

    def look() -> None:
        moved = 0 if destination.streams is None else destination.streams.bytes_moved
        still.look(destination.stage, moved, works=destination.at in LONG_WORK)

    while not destination.finished.is_set():
        try:
            link, peer = _next_source(destination, wait)
        except TimeoutError:
            raise _lonely(destination, wishes) from None
        destination.job.record.data["peer"] = peer
        still.connected()
        try:
            rpc.serve(
                link, REQUESTS, destination.handle, wishes.peer_timeout, destination.source_lost,
                look,
            )  # fmt: skip
        except rpc.LinkLost:
            pass  # whatever it was, the source may come back with its ticket
        finally:
            with contextlib.suppress(OSError):
                link.close()
        if destination.side is not None or destination.stage is not Stage.IDLE:
            wait = wishes.grace


def _next_source(destination: Destination, wait: float | None) -> tuple[ssl.SSLSocket, str]:
    """As Listener.control; :raise CpcError: QEMU died before anything was final, so the
    guest can never run here and no source needs to come back."""
    deadline = None if wait is None else time.monotonic() + wait
    while True:
        error = None if destination.prepared else destination.dead()
        if error is not None:
            raise error
        rest = LOOK_SECONDS if deadline is None else deadline - time.monotonic()
        try:
            return destination.listener.control(min(LOOK_SECONDS, max(0.0, rest)))
        except TimeoutError:
            if deadline is not None and time.monotonic() >= deadline:
                raise


def _abandon(destination: Destination, error: CpcError) -> None:
    """Keep a guest that runs here, give up any other. :raise CpcError: (5) that cannot be told."""
    try:
        destination.refresh()
    except CpcError as silent:
        if destination.prepared:  # its firmware may have had the COMMIT
            raise destination.not_given_up(silent) from silent
    if not _ran(destination):
        destination.give_up(error)


def _ran(destination: Destination) -> bool:
    """The guest was given to this host and ran, whatever became of it since."""
    dead = destination.stage is Stage.DEAD and "running" in destination.job.record.data
    return dead or destination.stage in (Stage.RUNNING, Stage.RAN)


def _lonely(destination: Destination, wishes: Wishes) -> CpcError:
    if destination.stage is Stage.IDLE:
        return CpcError(
            f"no source came within {wishes.wait or wishes.grace:g} s",
            exit_code=ExitCode.TIMED_OUT,
            hint="run `cpcctl receive` again and pass its ticket to `cpcctl migrate`",
        )
    return CpcError(
        f"the source did not come back within {wishes.grace:g} s; "
        "incoming migration aborted permanently",
        hint="look at `cpcctl job list` on the source",
    )


def _report(ctx: Context, job: Job, destination: Destination) -> int:
    name = job.record.vm
    ended = destination.ended_since() if _ran(destination) else None
    if destination.stage is Stage.RUNNING and (ended is None or ARRIVED in job.record.data):
        result: dict[str, Any] = {"vm": name, "host": ctx.settings.host, "state": "running"}
        verb = "arrived" if ARRIVED in job.record.data else "runs"
        known = destination.finished.is_set()
        if known:
            stale.forget_secrets(ctx.settings, job.record)
        else:
            job.record.data[ARRIVED] = True
        # Before a word of it: who reads that may have stalled.
        job.finish("done", result=result)
        if not known:
            # It went away with its question open, and nobody else can answer that.
            ctx.out.note(
                f"the source does not know yet that VM {name} runs here\n"
                f"  try: cpcctl job resume {job.id}, when the source asks again"
            )
        _note_unsaved(ctx, job)
        try:
            ctx.out.result(result, f"{name} {verb} on {ctx.settings.host}")
        except (OSError, CpcError) as lost:
            ctx.out.note(f"the result was not written: {reason(lost)}")
        return 0
    error = ended or destination.error or CpcError("the source left", host=ctx.settings.host)
    state = STATES.get(error.exit_code)
    if destination.stage in (Stage.IDLE, Stage.ENDED):
        stale.forget_secrets(ctx.settings, job.record)
    job.finish(state or "failed", error=error)
    _note_unsaved(ctx, job)
    raise error


def _note_unsaved(ctx: Context, job: Job) -> None:
    if job.unsaved is not None:
        ctx.out.note(f"that is not in its job's file: {job.unsaved.message}: {job.unsaved.cause}")
