# SPDX-License-Identifier: Apache-2.0
"""Debian packages the build needs: installed as root, else named and exit 2."""

from __future__ import annotations

import os
import subprocess
import sys

from cpcctl.setup import store, watched

# What each is for, so that nobody has to guess when trimming the list.
PACKAGES = {
    "gcc": "firmware and QEMU",
    "g++": "QEMU's configure insists on one",
    "libc6-dev": "firmware tests and QEMU",
    "binutils": "firmware image",
    "ninja-build": "QEMU",
    "pkg-config": "QEMU",
    "libglib2.0-dev": "QEMU",
    "libpixman-1-dev": "QEMU",
    "libfdt-dev": "QEMU",
    "libslirp-dev": "QEMU's user-mode network",
    "libgnutls28-dev": "QEMU's emulated SEV-SNP processor: keys, reports, certificates",
    "libseccomp-dev": "QEMU's filter of system calls",
    "zlib1g-dev": "QEMU",
    "xz-utils": "QEMU's source archive",
    "bzip2": "the source archive of the firmware's TLS library",
    "patch": "the patch series",
    "flex": "QEMU",
    "bison": "QEMU",
    "python3-venv": "the Python environment",
    "ca-certificates": "downloads",
    "debian-archive-keyring": "verifying Debian's packages",
    "cpio": "guest image",
    "e2fsprogs": "guest disk",
    "iproute2": "two hosts on one machine",
    "openssl": "tests of attestation reports",
}


def missing() -> list[str]:
    """Packages of the list that are not installed."""
    done = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *PACKAGES],
        capture_output=True,
        text=True,
        check=False,
    )
    there = {
        line.split()[0] for line in done.stdout.splitlines() if line.endswith(" installed")
    }
    return [name for name in PACKAGES if name not in there]


def main() -> int:
    """Install what is missing; 0 when everything is there, 2 when it cannot be."""
    try:
        wanted = missing()
    except FileNotFoundError:
        store.say("error: dpkg-query is not there; the set-up knows Debian 12 and 13 only")
        store.say("hint: install the equivalents of: " + " ".join(PACKAGES))
        return 2
    if not wanted:
        return 0
    install = ["apt-get", "install", "-y", "--no-install-recommends", *wanted]
    if os.geteuid() != 0:
        store.say("error: packages are missing and this is not root")
        store.say("run:  sudo apt-get update && sudo " + " ".join(install))
        return 2
    store.say("installing: " + " ".join(wanted))
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    log = store.root() / "log" / "packages.log"
    try:
        watched.run("packages: reading the lists", ["apt-get", "update", "-q"], log, env=env)
        watched.run("packages: installing", install, log, env=env)
    except watched.CommandFailed as error:
        store.say(f"error: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
