# SPDX-License-Identifier: Apache-2.0
"""A source that has the ticket and asks out of order, or for what there is not.

Its requests are real ones, with the offer and the firmware of a guest that runs on host-a; what
it leaves out or asks twice is refused by name, and leaves nothing on the destination.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from cpcctl import abi
from cpcctl.config.settings import Settings
from cpcctl.link import rpc, tls
from cpcctl.link import ticket as tickets
from cpcctl.link.message import Request
from cpcctl.migrate import facts, messages, session
from cpcctl.migrate.options import Options
from cpcctl.migrate.side import Side
from cpcctl.vm import registry
from tests.lib.fork_server import Command
from tests.patience import patient
from tests.recovery.hosts import VM, Scene, finish, told
from tests.recovery.test_kill_matrix import check_journal

SUITES = Options().suites
DEVICES = messages.Complete(b"no devices", bytes(32))
RUN = messages.Run(bytes(session.TOKEN_BYTES))


@dataclass
class Talk:
    """A source's end of the control connection, and its machine."""

    scene: Scene
    client: rpc.Client
    side: Side
    receive: Command

    def offer(self, kind: Callable[..., Request[Any]], **more: Any) -> Request[Any]:
        """Preflight or prepare of a's VM, as one without disks, whose files are nobody's."""
        spec = replace(self.side.vm.spec, disks=()).document()
        return kind({**spec, **more}, facts.source_document(facts.of_source(self.side)), ())

    def prepare(self) -> None:
        """Have QEMU launched there."""
        self.client.ask(messages.Hello("host-a", messages.PROTOCOL))
        self.client.ask(self.offer(messages.Prepare))
        assert self.scene.b.state() == "frozen"

    def shake_hands(self) -> bytes:
        """Agree on keys; what the destination is to be told of that."""
        hello = session.open_session(self.side.main, abi.ROLE_SOURCE, SUITES)
        answer = self.client.ask(messages.Handshake(hello, SUITES))
        confirmation = session.accept(self.side.main, answer.hello)
        session.confirm(self.side.main, answer.confirmation)
        return confirmation

    def refused(self, request: Request[Any], words: str) -> None:
        """Ask for something that is not to be done."""
        with pytest.raises(rpc.RemoteError) as caught:
            self.client.ask(request)
        assert words in (caught.value.cause or ""), caught.value.cause

    def out_of_order(self, *requests: Request[Any]) -> None:
        """Each of them is refused by its name."""
        for request in requests:
            self.refused(request, f"request '{request.name}' is out of order: the destination ")

    def leave(self) -> None:
        """Hang up: the destination gives up, and its name and port are free."""
        self.client.close()
        assert finish(self.receive) == 1, told(self.receive)
        assert "incoming migration aborted permanently" in self.receive.err.read_text()
        assert self.scene.b.state() == "absent"
        self.scene.b.check_nothing_left()


@pytest.fixture
def talk(scene: Scene) -> Iterator[Talk]:
    """A guest on host-a, `receive` on host-b, and a connection."""
    scene.vm()
    receive, text = scene.receive()
    here = scene.a.folder
    settings = Settings(here / "s", here / "r", here, None, None, None, "host-a", "text", "none")
    side = Side.attach(registry.attach(settings, VM))
    ticket = tickets.parse(text)
    client = rpc.Client(tls.connect(ticket, patient(5)), ticket.address, patient(5))
    yield Talk(scene, client, side, receive)
    client.close()
    side.close()


def test_before_anything_was_launched(talk: Talk) -> None:
    hello = session.open_session(talk.side.main, abi.ROLE_SOURCE, SUITES)
    talk.out_of_order(
        messages.Handshake(hello, SUITES), messages.Confirm(bytes(32), 1), messages.Watch(),
        DEVICES, RUN, messages.Done(),
    )
    talk.client.ask(messages.Abort("enough"))
    talk.client.close()
    assert finish(talk.receive) == 1, told(talk.receive)
    talk.scene.b.check_nothing_left()


def test_right_after_prepare(talk: Talk) -> None:
    """`done` among them: it is no way to leave a frozen QEMU behind."""
    talk.prepare()
    talk.out_of_order(
        messages.Done(), talk.offer(messages.Prepare), talk.offer(messages.Preflight),
        messages.Confirm(bytes(32), 1), messages.Watch(), DEVICES, RUN,
    )
    assert talk.client.ask(messages.Query()).fact == "RECEIVING"
    talk.leave()


def test_before_there_is_any_data(talk: Talk) -> None:
    """complete waits for data; run and done are not taken, before it and after it failed."""
    talk.prepare()
    confirmation = talk.shake_hands()
    talk.out_of_order(DEVICES, RUN, messages.Done(), talk.offer(messages.Prepare))
    talk.client.ask(messages.Confirm(confirmation, 1))
    talk.out_of_order(
        RUN, messages.Done(), messages.Confirm(confirmation, 1), talk.offer(messages.Prepare)
    )
    talk.leave()


def test_complete_before_data(talk: Talk) -> None:
    """It waits for the streams; the next request before its answer ends the connection."""
    talk.prepare()
    talk.client.ask(messages.Confirm(talk.shake_hands(), 1))
    params, attached = DEVICES.write()
    talk.client._channel.send({"id": 8, "method": "complete", "params": params}, attached)
    talk.client._channel.send({"id": 9, "method": "clock", "params": {}})
    with pytest.raises(rpc.LinkLost, match="closed"):
        talk.client._channel.receive()
    talk.leave()


def test_a_handshake_that_makes_no_sense(talk: Talk) -> None:
    """It leaves the firmware between two states: only giving up is left."""
    talk.prepare()
    talk.refused(messages.Handshake(bytes(session.HELLO_BYTES), SUITES), "")
    talk.out_of_order(messages.Confirm(bytes(32), 1), DEVICES, RUN, messages.Done())
    talk.leave()


def test_unknown_and_malformed(talk: Talk) -> None:
    """Refused by name, and the next request is answered."""
    talk.prepare()
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("give-up", {}, "this version knows no request 'give-up'"),
        ("run", {}, "malformed request 'run'"),
        ("complete", {"devices": 1}, "malformed request 'complete'"),
        ("done", {"more": 1}, "malformed request 'done'"),
        ("prepare", {"spec": [], "source": {}}, "malformed request 'prepare'"),
    ]
    for method, params, words in cases:
        talk.client._channel.send({"id": 7, "method": method, "params": params})
        error = talk.client._channel.receive().message["error"]
        assert error["exit_code"] == 3 and words in error["message"], error
    talk.refused(talk.offer(messages.Prepare, name="../x"), "out of order")
    assert talk.client.ask(messages.Query()).fact == "RECEIVING"
    talk.leave()


def test_the_name_is_free_again(talk: Talk) -> None:
    """The guest itself arrives where such a source was before."""
    talk.prepare()
    talk.out_of_order(messages.Done())
    talk.leave()
    talk.side.close()
    scene = talk.scene
    receive, ticket = scene.receive()
    migrate = scene.migrate(ticket)
    assert (finish(migrate), finish(receive)) == (0, 0), told(migrate) + told(receive)
    assert (scene.a.state(), scene.b.state()) == ("absent", "running")
    check_journal(scene.stage.lines())
