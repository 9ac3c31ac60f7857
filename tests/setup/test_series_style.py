# SPDX-License-Identifier: Apache-2.0
"""The patches are in the form that QEMU takes: title, sign-off, checkpatch."""

from __future__ import annotations

import re
import subprocess
from email import policy
from email.parser import BytesParser
from pathlib import Path

import pytest

from tests.setup.test_series import PATCHES, run, series

LONGEST_TITLE = 50
# A question, and one for whoever merges the series.
ASKED = "added, moved or deleted file(s), does MAINTAINERS need updating?"
# What the style of the file itself demands: title of the patch, words of checkpatch.
DEMANDED = {
    ("target/i386: add XSAVEC and compacted XRSTOR", words)
    for words in (
        "Block comments use a trailing */ on a separate line",
        "space required after that ',' (ctx:VxV)",
        "return is not a function, parentheses are not required",
    )
}


def title(name: str) -> str:
    """The subject, without [PATCH]."""
    return header(name)[0]


def header(name: str) -> tuple[str, str, str]:
    """Title, author and body of a patch."""
    data = (PATCHES / name).read_bytes().split(b"\n", 1)[1]
    mail = BytesParser(policy=policy.compat32).parsebytes(data)
    subject = re.sub(r"\s*\n\s+", " ", str(mail["Subject"]))
    body = str(mail.get_payload()).split("\ndiff --git ")[0]
    author = re.sub(r"\s*\n\s+", " ", str(mail["From"]))
    return subject.removeprefix("[PATCH] "), author, body


@pytest.fixture(scope="module")
def checkpatch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script of the QEMU that the series is for."""
    found = Path(run(PATCHES / "fetch.sh").strip())
    if found.is_dir():
        return found / "scripts/checkpatch.pl"
    folder = tmp_path_factory.mktemp("checkpatch")
    # U-Boot, which is in there as well, has another one.
    run("tar", "-C", folder, "--strip-components=2", "--wildcards", "--no-wildcards-match-slash",
        "--occurrence=1", "-xf", found, "*/scripts/checkpatch.pl")  # fmt: skip
    return folder / "checkpatch.pl"


@pytest.mark.parametrize("name", series())
def test_title_and_sign_off(name: str) -> None:
    subject, author, body = header(name)
    assert len(subject) <= LONGEST_TITLE, f"{len(subject)} characters: {subject}"
    assert re.match(r"[a-z0-9/_-]+: [a-z]", subject), subject
    assert not subject.endswith("."), subject
    assert f"Signed-off-by: {author}" in body.splitlines(), "its author has not signed it off"


@pytest.mark.slow
def test_checkpatch(checkpatch: Path) -> None:
    found = []
    for name in series():
        done = subprocess.run(
            ["perl", checkpatch, "--no-tree", "--no-summary", "--terse", PATCHES / name],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert not done.stderr, done.stderr
        for line in done.stdout.splitlines():
            words = line.split(": ", 2)[2]
            if words != ASKED and (title(name), words) not in DEMANDED:
                found.append(line)
    assert not found, "\n".join(found)


@pytest.mark.slow
def test_checkpatch_finds_faults(checkpatch: Path, tmp_path: Path) -> None:
    """With the same options, of a patch that has some."""
    text = (PATCHES / series()[1]).read_text()
    bad = tmp_path / "bad.patch"
    bad.write_text(re.sub(r"Signed-off-by: .*\n", "", text).replace("\n+    if", "\n+\tif", 1))
    out = subprocess.run(
        ["perl", checkpatch, "--no-tree", "--no-summary", "--terse", bad],
        capture_output=True, text=True, check=False,
    ).stdout  # fmt: skip
    assert "Missing Signed-off-by" in out and "tabs" in out


def test_a_save_area_is_loaded_from_a_copy() -> None:
    """What is judged is what is loaded, since the guest can write to the page at any time: the
    one function that loads it takes the page as bytes, and looks only at the copy."""
    added = "".join(
        line[1:] + "\n"
        for name in series()
        for line in (PATCHES / name).read_text(errors="replace").splitlines()
        if line.startswith("+")
    )
    body = re.search(r"^bool vmsa_load\(CPUX86State \*env, (.*?)\)\n\{(.*?)^\}", added, re.M | re.S)
    assert body and body[1] == "const void *page, Vmsa *v"
    assert re.findall(r"\bpage\b[^.]", body[2])[1:] == ["page,"], "page is used once, to be copied"
    assert "memcpy(v, page, sizeof(*v))" in body[2]
