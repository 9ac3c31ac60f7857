# SPDX-License-Identifier: Apache-2.0
"""Where Debian has its kernels: one package, and since Linux 6.19 several."""

from __future__ import annotations

from pathlib import Path

import pytest

from cpcctl.demo import image
from cpcctl.setup import debian

OLD = {
    image.KERNEL: ["linux-image-6.12.48-cloud-amd64"],
    "linux-image-6.12.48-cloud-amd64": ["kmod", "linux-base", "initramfs-tools"],
}
NEW = {
    image.KERNEL: ["linux-base-cloud-amd64", "linux-image-7.2.12+deb14-cloud-amd64"],
    "linux-image-7.2.12+deb14-cloud-amd64": [
        "<linux-initramfs-tool>", "linux-base-7.2.12+deb14-cloud-amd64",
        "linux-binary-7.2.12+deb14-cloud-amd64", "linux-modules-7.2.12+deb14-cloud-amd64",
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("packages", "found"),
    [
        (OLD, OLD[image.KERNEL]),
        (NEW, [*NEW[image.KERNEL][1:], *NEW["linux-image-7.2.12+deb14-cloud-amd64"][1:]]),
    ],
    ids=["one", "split"],
)
def test_packages_of_a_kernel(
    packages: dict[str, list[str]], found: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debian, "dependencies", lambda name, suite: packages[name])
    assert image.kernel_packages("any") == found


def test_a_release_without_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "dependencies", lambda name, suite: ["linux-base"])
    with pytest.raises(image.ImageError, match="depends on no kernel"):
        image.kernel_packages("any")


@pytest.mark.parametrize(
    "place",
    ["boot/vmlinuz-6.12.48-cloud-amd64", "usr/lib/modules/7.2.12+deb14-cloud-amd64/vmlinuz"],
)
def test_the_kernel_in_its_package(place: str, tmp_path: Path) -> None:
    with pytest.raises(image.ImageError, match="no vmlinuz"):
        image.kernel_file(tmp_path)
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).touch()
    assert image.kernel_file(tmp_path) == tmp_path / place


def module(path: Path, needs: str = "") -> Path:
    path.write_bytes(b"\0depends=" + needs.encode() + b"\0")
    return path


def test_modules_for_reports(tmp_path: Path) -> None:
    """GHASH is a module up to Linux 7.1 and in a library from 7.2 on."""
    files = {"gcm": module(tmp_path / "gcm.ko"),
             "sev_guest": module(tmp_path / "sev-guest.ko", "tsm_report"),
             "tsm_report": module(tmp_path / "tsm_report.ko")}  # fmt: skip
    wanted = image.ATTEST_MODULES
    assert image.load_order(files, wanted, "") == ["gcm", "tsm_report", "sev_guest"]
    files["ghash_generic"] = module(tmp_path / "ghash-generic.ko")
    assert image.load_order(files, wanted, "")[:2] == ["gcm", "ghash_generic"]
    del files["gcm"]
    with pytest.raises(image.ImageError, match="gcm"):
        image.load_order(files, wanted, "")
