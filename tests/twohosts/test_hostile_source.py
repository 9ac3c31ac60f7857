# SPDX-License-Identifier: Apache-2.0
"""A source that has the ticket and is hostile gets nothing of the destination's files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cpcctl.link import rpc, tls
from cpcctl.link import ticket as tickets
from cpcctl.link.message import Request
from cpcctl.migrate import messages
from tests.twohosts.pair import Pair, finish

SOURCE = {
    "host": "evil", "platform": "plain", "abi": 1, "firmware_version": "0.1.0",
    "ram": 64 << 20, "cpu": [],
}


def offer(kind: Callable[[Any, Any], Request[Any]], **more: Any) -> Request[Any]:
    spec = {"name": "evil", "memory": "64M", "machine": "pc-q35-10.0", **more}
    return kind(spec, SOURCE)


@pytest.mark.parametrize("kind", [messages.Preflight, messages.Prepare])
def test_files_and_devices_of_the_host(pair: Pair, tmp_path: Path, kind: Any) -> None:
    receive, text = pair.receive()
    ticket = tickets.parse(text)
    client = rpc.Client(tls.connect(ticket, 5), ticket.address, 5)
    link = tmp_path / "link"
    link.symlink_to("/etc/shadow")
    kernel = str(pair.built.vmlinuz)
    attacks: list[tuple[str, dict[str, Any]]] = [
        ("paths", {"kernel": kernel, "initrd": "/etc/shadow"}),
        ("paths", {"kernel": kernel, "initrd": str(link)}),
        ("paths", {"kernel": "/etc/shadow"}),
        ("paths", {"uefi_code": "/etc/shadow"}),
        ("paths", {"disks": [{"path": "/etc/shadow", "format": "raw"}]}),
        ("devices", {"devices": ["loader,file=/etc/passwd"]}),
        ("devices", {"devices": ["help"]}),
        ("devices", {"devices": ["cpc,firmware=/x"]}),
        ("passthrough", {"devices": ["vfio-pci,host=01:00.0"]}),
        ("vtpm", {"devices": ["tpm-crb,tpmdev=x"]}),
    ]
    for name, attack in attacks:
        if kind is messages.Preflight:
            found = client.ask(offer(messages.Preflight, **attack))
            assert [check.name for check in found.checks if not check.ok] == [name]
        else:
            with pytest.raises(rpc.RemoteError) as caught:
                client.ask(offer(kind, **attack))
            assert f"{name}: " in (caught.value.cause or "")
    with pytest.raises(rpc.RemoteError) as caught:
        client.ask(offer(kind, cpu="max,memory=ram0"))
    assert "is not a model" in (caught.value.cause or "")
    with pytest.raises(rpc.RemoteError, match="reports an error") as caught:
        for _ in range(40):
            client.ask(offer(messages.Preflight, kernel="/etc/shadow"))
    assert "often enough" in (caught.value.cause or "")
    client.close()
    receive.terminate()
    finish(receive, 143)
    assert pair.b.vm_state("evil") == "absent"


def test_the_option_allows_a_folder(pair: Pair) -> None:
    """The refusal names the option that lets the same VM in."""
    name = pair.vm()
    allowed = pair.b.env.pop("CPCCTL_ALLOW_PATHS")
    receive, ticket = pair.receive()
    done = finish(pair.migrate(name, ticket), 3)
    assert f"--allow-path {pair.built.vmlinuz.parent}" in done.stderr
    assert "  try:" not in done.stderr  # advice from there is not ours
    receive.terminate()
    finish(receive, 143)
    pair.check_one_side(name, "a")
    receive, ticket = pair.receive("--allow-path", allowed.split(":")[0])
    finish(pair.migrate(name, ticket), 0)
    finish(receive, 0)
    pair.b.run("receive", "--allow-path", "relative", expect=2)
    assert json.loads(pair.b.run("vm", "status", name, "--format", "json").stdout)["state"]
