# SPDX-License-Identifier: Apache-2.0
"""A CPU model and its features, as -cpu of QEMU reads them."""

from __future__ import annotations

import pytest

from cpcctl.host import cpu_model


@pytest.mark.parametrize(
    ("model", "props"),
    [
        ("max", {}),
        ("EPYC,pcid=off,aes=on", {"pcid": False, "aes": True}),
        ("EPYC,aes=off,aes=on", {"aes": True}),
        # What QEMU 10.0 does with these, whatever their order.
        ("EPYC,+la57,la57=off", {"la57": True}),
        ("EPYC,la57=off,+la57", {"la57": True}),
        ("EPYC,-aes,+aes", {"aes": False}),
        ("EPYC,-aes,aes=on", {"aes": False}),
    ],
)
def test_what_counts(model: str, props: dict[str, bool]) -> None:
    assert cpu_model.settings(model) == (model.split(",")[0], props)


@pytest.mark.parametrize("model", ["X", "X,+a,-b", "X,a=off,b=on", "X,-a,+a,+b,-b,b=off"])
def test_a_change_counts_whatever_was_set(model: str) -> None:
    found = cpu_model.changed(f"{model},+c", on=["a"], off=["b"])
    assert cpu_model.settings(found) == ("X", {"a": True, "b": False, "c": True})
