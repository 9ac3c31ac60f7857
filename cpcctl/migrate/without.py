# SPDX-License-Identifier: Apache-2.0
"""A job whose controller died, and whose QEMU is gone: only the destination can say."""

from __future__ import annotations

import base64
import contextlib

from cpcctl.config.settings import Settings
from cpcctl.errors import RESTORE, CpcError, ExitCode
from cpcctl.jobs.store import Job
from cpcctl.link import rpc, tls
from cpcctl.link import ticket as tickets
from cpcctl.migrate import machine, messages, worker
from cpcctl.migrate.machine import DestinationFact, SourceFact, Step
from cpcctl.migrate.options import Options
from cpcctl.vm import lifecycle


def settle(settings: Settings, job: Job, trouble: CpcError) -> None:
    """End the job: done (0) when the destination runs the guest, lost (7) when
    that is proven, else not proven (5).

    trouble: why the machine here cannot be had.
    """
    record = job.record
    try:
        lifecycle.attach(settings, record.vm)
    except CpcError as error:
        if error.exit_code is ExitCode.UNPROVEN:
            worker.end(job, error)
            return
    else:
        worker.end(job, _hangs(settings, job, trouble))
        return
    if "prepared" not in record.data:
        # Lost, whatever the destination says; it is told, and need not wait for its grace.
        with contextlib.suppress(CpcError, rpc.LinkLost, OSError):
            _ask(job)
        _discard(settings, record.vm)
        worker.end(job, _lost(settings, job, trouble))
        return
    try:
        step, host = _ask(job)
    except (CpcError, rpc.LinkLost, OSError) as error:
        worker.end(job, _unproven(settings, job, error))
        return
    if step is Step.CLEAN_SOURCE:
        _discard(settings, record.vm)
        record.data.pop("ticket", None)
        job.finish("done", result=_result(settings, job, host))
    elif step is Step.LOST:
        _discard(settings, record.vm)
        worker.end(job, _lost(settings, job, trouble))
    else:
        worker.end(job, _unproven(settings, job, trouble))


def _ask(job: Job) -> tuple[Step, str]:
    """What follows from the destination's answer, and its name; COMMIT is sent again.

    :raise CpcError, LinkLost, OSError: it cannot be asked.
    """
    data = job.record.data
    ticket, options = tickets.parse(data["ticket"]), Options.read(data["options"])
    try:
        link = tls.connect(ticket, options.peer_timeout)
    except tls.LinkRefused as error:
        raise CpcError("the destination refused the connection", cause=str(error)) from error
    client = rpc.Client(link, ticket.address, options.peer_timeout)
    try:
        host = client.ask(messages.Hello(job.record.host, messages.PROTOCOL)).host
        step = _next(client, "commit" in data)
        if step is Step.SEND_COMMIT:
            # Its answer is not needed: what it says of itself afterwards is.
            with contextlib.suppress(rpc.RemoteError):
                client.ask(messages.Run(base64.b64decode(data["commit"])))
            step = _next(client, True)
        # If it cannot hear this, its grace ends it; what is settled stays settled.
        with contextlib.suppress(rpc.LinkLost, rpc.RemoteError):
            if step is Step.CLEAN_SOURCE:
                client.ask(messages.Done())
            elif step is Step.LOST:
                client.ask(messages.Abort("QEMU on the source died", lost=True))
        return step, host
    finally:
        client.close()


def _next(client: rpc.Client, commit_token: bool) -> Step:
    fact = DestinationFact[client.ask(messages.Query()).fact]
    return machine.settle(SourceFact.DEAD, fact, commit_token=commit_token)


def _discard(settings: Settings, name: str) -> None:
    with contextlib.suppress(CpcError):
        lifecycle.forget(settings, name)


def _result(settings: Settings, job: Job, host: str) -> dict[str, object]:
    """As Source.result(), of which little is known any more."""
    return {
        "vm": job.record.vm,
        "source": settings.host,
        "destination": host,
        "phases": [
            {"name": entry["name"], "seconds": entry["seconds"]}
            for entry in job.record.phases
            if entry["seconds"] is not None
        ],
        "rounds": job.record.progress.get("rounds", []),
        "streams": 0,
        "streams_why": "unknown",
        "total_seconds": None,
        "downtime_seconds": None,
        "paused_seconds": None,
        "bytes_sent": job.record.progress.get("bytes_sent", 0),
        "suite": "unknown",
        "suite_why": "unknown",
        "peer_attested": False,
        "protection": job.record.data.get("protection", ""),
    }


def _lost(settings: Settings, job: Job, trouble: CpcError) -> CpcError:
    return CpcError(
        f"VM {job.record.vm} was lost: QEMU on {settings.host} died, "
        "and the destination does not run it",
        exit_code=ExitCode.LOST,
        host=settings.host,
        cause=trouble.cause or trouble.message,
        hint=RESTORE,
    )


def _hangs(settings: Settings, job: Job, trouble: CpcError) -> CpcError:
    return CpcError(
        f"QEMU of VM {job.record.vm} on {settings.host} cannot be asked",
        exit_code=ExitCode.UNPROVEN,
        host=settings.host,
        cause=trouble.cause or trouble.message,
        hint=f"cpcctl vm status {job.record.vm}, then cpcctl job resume {job.id}",
    )


def _unproven(settings: Settings, job: Job, error: Exception) -> CpcError:
    words = (error.cause or error.message) if isinstance(error, CpcError) else str(error)
    return CpcError(
        f"VM {job.record.vm} does not run on {settings.host}; whether it runs on the "
        "destination is not known",
        exit_code=ExitCode.UNPROVEN,
        host=settings.host,
        cause=words,
        hint=f"cpcctl vm status {job.record.vm} on the destination; "
        f"cpcctl job resume {job.id} once it can be reached",
    )
