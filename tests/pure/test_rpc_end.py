# SPDX-License-Identifier: Apache-2.0
"""A connection that ends while its last request is worked on."""

from __future__ import annotations

import os
import signal
import socket
import threading
from typing import Any

import pytest

from cpcctl.link import rpc
from cpcctl.link.message import Message, Request
from tests.pure.test_rpc import REQUESTS, Text, frame


def test_a_request_is_waited_for_also_when_interrupted_meanwhile() -> None:
    """The source is gone, its last request launches something, and then comes Ctrl-C, twice."""
    ends = socket.socketpair()
    left, begun, launched = threading.Event(), threading.Event(), threading.Event()

    def launch(_: Request[Any]) -> Message:
        begun.set()
        assert left.wait(20)
        for _count in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            launched.wait(0.05)
        launched.set()
        return Text("", b"x")

    ends[0].sendall(frame({"id": 1, "method": "echo", "params": {"text": ""}}, b"x"))

    def leave() -> None:
        begun.wait(20)
        ends[0].close()

    leaves = threading.Thread(target=leave)
    leaves.start()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            rpc.serve(ends[1], REQUESTS, launch, 30, left.set)
    finally:
        signal.signal(signal.SIGINT, before)
    assert launched.is_set()
    leaves.join()
