# SPDX-License-Identifier: Apache-2.0
"""Which mirror the private apt uses."""

from __future__ import annotations

import pytest

from cpcctl.setup import debian

ONE_LINE = """
# deb http://commented.invalid/debian bookworm main
deb [arch=amd64 signed-by=/x.gpg] http://mirror.invalid/debian bookworm main contrib
deb-src http://sources.invalid/debian bookworm main
"""
DEB822 = """
Types: deb
URIs: https://repo.invalid/other
Suites: stable
Components: main

Types: deb deb-src
# a remark
URIs: https://first.invalid/debian/ https://second.invalid/debian
Suites: trixie trixie-updates
Components: main
"""


@pytest.mark.parametrize(
    ("text", "mirror"),
    [
        (ONE_LINE, "http://mirror.invalid/debian"),
        (DEB822, "https://first.invalid/debian"),
    ],
)
def test_mirror_is_the_machines_own(text: str, mirror: str) -> None:
    assert debian.choose_mirror(debian.parse_mirrors(text)) == mirror


@pytest.mark.parametrize(
    "text",
    [
        "",
        "deb cdrom:[x]/ bookworm main",
        "deb http://other.invalid/ubuntu noble main",
        DEB822.replace("Types: deb deb-src", "Enabled: no\nTypes: deb"),
    ],
)
def test_no_mirror_is_guessed(text: str) -> None:
    with pytest.raises(debian.AptError, match="no Debian archive"):
        debian.choose_mirror(debian.parse_mirrors(text))
