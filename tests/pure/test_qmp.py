# SPDX-License-Identifier: Apache-2.0
"""The QMP adapter against a server that speaks real QMP."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cpcctl.errors import CpcError
from cpcctl.host.qmp import Qmp, QmpError, QmpGone


def test_a_command_and_its_arguments(qmp_server: Any) -> None:
    qmp_server.handlers["echo"] = lambda arguments: arguments
    with Qmp.connect(qmp_server.path) as qmp:
        assert qmp.execute("echo", node_name="a", left_out=None) == {"node-name": "a"}
        assert qmp.execute_raw("echo", {"ram_addr": 1}) == {"ram_addr": 1}


def test_an_error_keeps_qemus_words(qmp_server: Any, refusal: Any) -> None:
    def fail(_: Any) -> None:
        raise refusal("The guest is frozen until its firmware releases it")

    qmp_server.handlers["cont"] = fail
    with Qmp.connect(qmp_server.path, host="host-a") as qmp:
        with pytest.raises(QmpError) as caught:
            qmp.execute("cont")
        assert qmp.execute("query-status") == {"status": "running"}
    assert caught.value.render() == (
        "error: QEMU refused cont\n"
        "  cause (host-a): The guest is frozen until its firmware releases it"
    )
    assert caught.value.error_class == "GenericError"


def test_an_unpatched_qemu_is_named(qmp_server: Any) -> None:
    with Qmp.connect(qmp_server.path, label="VM a") as qmp, pytest.raises(CpcError) as caught:
        qmp.require_cpc()
    assert caught.value.exit_code == 3
    assert caught.value.message == "QEMU of VM a has no hvCPUs: it is not the patched one"


def test_a_machine_without_the_device_is_not_called_unpatched(
    qmp_server: Any, refusal: Any
) -> None:
    def fail(_: Any) -> None:
        raise refusal("this machine has no cpc device")

    qmp_server.handlers["query-cpc"] = fail
    with Qmp.connect(qmp_server.path) as qmp, pytest.raises(QmpError):
        qmp.require_cpc()


def test_nothing_listens(tmp_path: Path) -> None:
    with pytest.raises(QmpGone) as caught:
        Qmp.connect(tmp_path / "none", label="VM a")
    assert caught.value.exit_code == 4
    assert caught.value.message == "QEMU of VM a cannot be reached"
    assert "No such file" in (caught.value.cause or "")


def test_a_dead_qemus_socket_is_refused(qmp_server: Any) -> None:
    qmp_server.die()
    with pytest.raises(QmpGone) as caught:
        Qmp.connect(qmp_server.path)
    assert "refused" in (caught.value.cause or "")


def test_no_greeting_is_a_clear_error(qmp_server: Any) -> None:
    qmp_server.greet = False
    with pytest.raises(QmpGone) as caught:
        Qmp.connect(qmp_server.path, timeout=0.2)
    assert "no QMP greeting within 0.2 s" in (caught.value.cause or "")


def test_death_during_a_command(qmp_server: Any) -> None:
    qmp_server.handlers["hang"] = lambda _: qmp_server.die()
    with Qmp.connect(qmp_server.path, label="VM a") as qmp:
        with pytest.raises(QmpGone, match="QEMU of VM a died during hang"):
            qmp.execute("hang")
        with pytest.raises(QmpGone):
            qmp.execute("query-status")
        assert not qmp.alive


def test_a_command_that_takes_too_long(qmp_server: Any) -> None:
    go = threading.Event()
    qmp_server.handlers["slow"] = lambda _: {"waited": go.wait(20)}
    with Qmp.connect(qmp_server.path) as qmp:
        with pytest.raises(QmpGone, match=r"did not answer slow within 0.2 s"):
            qmp.execute("slow", _timeout=0.2)
        go.set()


def test_megabytes_in_one_line(qmp_server: Any) -> None:
    data = "A" * (24 << 20)
    qmp_server.handlers["big"] = lambda arguments: {"data": arguments["data"]}
    with Qmp.connect(qmp_server.path) as qmp:
        assert qmp.execute("big", data=data)["data"] == data


def test_threads_share_a_session(qmp_server: Any) -> None:
    qmp_server.handlers["echo"] = lambda arguments: arguments["n"]
    found: list[tuple[int, int]] = []
    with Qmp.connect(qmp_server.path) as qmp:
        def ask(number: int) -> None:
            for _ in range(20):
                found.append((number, qmp.execute("echo", n=number)))

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 100
    assert all(sent == received for sent, received in found)


def test_events_wait_in_the_queue(qmp_server: Any) -> None:
    with Qmp.connect(qmp_server.path) as qmp:
        qmp_server.event("STOP")
        qmp_server.event("CPC_FROZEN")
        assert qmp.wait_event(lambda e: bool(e["event"] == "CPC_FROZEN"), 5)["data"] == {}
        assert qmp.seen(lambda e: bool(e["event"] == "CPC_FROZEN")) is None
        assert qmp.seen(lambda e: bool(e["event"] == "STOP")) is not None
        with pytest.raises(TimeoutError):
            qmp.wait_event(lambda e: bool(e["event"] == "CPC_FROZEN"), 0.05)


def test_waiting_for_an_event_ends_with_qemu(qmp_server: Any) -> None:
    with Qmp.connect(qmp_server.path) as qmp:
        timer = threading.Timer(0.1, qmp_server.die)
        timer.start()
        begin = time.monotonic()
        with pytest.raises(QmpGone):
            qmp.wait_event(lambda _: False, 20)
        assert time.monotonic() - begin < 10
        timer.join()


def test_closing_twice_and_no_thread_is_left(qmp_server: Any) -> None:
    qmp = Qmp.connect(qmp_server.path)
    qmp.close()
    qmp.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("qmp-")]
