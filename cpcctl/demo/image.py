# SPDX-License-Identifier: Apache-2.0
"""Builds the small guest from Debian's own packages, without root.

Result, in ``current/guest``: ``vmlinuz`` (Debian's cloud kernel), ``tiny.cpio``
(busybox and the virtio drivers: boots in a few seconds) and ``guest.cpio`` (the
same plus redis-server, stress-ng, memtester and e2fsck).
"""

from __future__ import annotations

import lzma
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from cpcctl.setup import debian, store

HERE = Path(__file__).parent / "guest"
KERNEL = "linux-image-cloud-amd64"
IMAGE_PACKAGE = re.compile(r"linux-image-\d")
PART_PACKAGE = re.compile(r"linux-(base|binary|modules)-\d")
TOOLS = ["redis-server", "redis-tools", "stress-ng", "memtester", "e2fsprogs"]
# Dependencies that only matter to an installed system: never loaded by TOOLS.
UNUSED = re.compile(r"perl|^lib\S*-perl$|^dpkg$|^debconf$|^passwd$|^adduser$|^gcc-\d+-base$")
PROGRAMS = {
    "usr/bin": ["redis-server", "redis-cli", "stress-ng", "memtester"],
    "usr/sbin": ["e2fsck", "mke2fs", "tune2fs"],
}
MODULES = ["virtio_pci", "virtio_blk", "virtio_net", "virtio_rng", "crc32c_generic", "ext4"]
# Not loaded: what /dev/sev-guest needs, in kernels that have that driver.
ATTEST_MODULES = ["gcm", "ghash_generic", "sev_guest"]
# Drivers a kernel may have built in instead, or in a library; others must be there.
OPTIONAL_MODULES = {"crc32c_generic", "virtio_rng", "ghash_generic"}


class ImageError(Exception):
    """The guest cannot be built from what the packages hold."""


def kernel_packages(suite: str) -> list[str]:
    """Names of the packages that a release's kernel and its modules are in.

    One up to trixie; since Linux 6.19 Debian has the two in packages of their own, on which
    that one depends.

    :raise ImageError: the release has no such kernel
    :raise AptError: apt does not offer it
    """
    images = [name for name in debian.dependencies(KERNEL, suite) if IMAGE_PACKAGE.match(name)]
    if not images:
        raise ImageError(f"{KERNEL} of {suite} depends on no kernel")
    parts = [name for name in debian.dependencies(images[0], suite) if PART_PACKAGE.match(name)]
    return [images[0], *parts]


def kernel_file(unpacked: Path) -> Path:
    """The kernel itself in a tree of kernel_packages(): in /boot, or beside its modules.

    :raise ImageError: there is none
    """
    for pattern in ("boot/vmlinuz-*", "usr/lib/modules/*/vmlinuz"):
        for path in sorted(unpacked.glob(pattern)):
            return path
    raise ImageError(f"no vmlinuz in the packages of {KERNEL}")


def module_files(modules: Path) -> dict[str, Path]:
    """Every kernel module in a tree, by name with ``-`` as ``_``."""
    found = {}
    for path in modules.rglob("*.ko*"):
        found[path.name.split(".ko")[0].replace("-", "_")] = path
    return found


def module_bytes(path: Path) -> bytes:
    """A module, uncompressed."""
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def module_needs(data: bytes) -> list[str]:
    """Names of the modules that one needs, from its own description."""
    match = re.search(rb"\0depends=([^\0]*)\0", data)
    names = match[1].decode() if match else ""
    return [name.replace("-", "_") for name in names.split(",") if name]


def load_order(files: dict[str, Path], wanted: list[str], builtin: str) -> list[str]:
    """Modules in the order they can be loaded; raises ImageError if one lacks."""
    order: list[str] = []

    def visit(name: str) -> None:
        if name in order:
            return
        if name not in files:
            if name in OPTIONAL_MODULES or f"/{name}.ko" in builtin.replace("-", "_"):
                return
            raise ImageError(f"kernel module {name} is not in {KERNEL}")
        for need in module_needs(module_bytes(files[name])):
            visit(need)
        order.append(name)

    for name in wanted:
        visit(name)
    return order


def archive(tree: Path, out: Path) -> None:
    """Pack a tree as an initramfs: newc, owned by root, in a stable order."""
    names = sorted(str(p.relative_to(tree)) for p in tree.rglob("*"))
    with out.open("wb") as stream:
        subprocess.run(
            ["cpio", "-o", "-0", "--quiet", "-H", "newc", "--owner=0:0", "--reproducible"],
            cwd=tree,
            input="".join(name + "\0" for name in names).encode(),
            stdout=stream,
            check=True,
        )


def libraries(root: Path, program: Path) -> list[Path]:
    """Shared libraries that a program of the extracted tree loads."""
    loader = (root / "lib64/ld-linux-x86-64.so.2").resolve()
    if not loader.exists():
        loader = next(root.rglob("ld-linux-x86-64.so.2"))
    places = [root / "lib/x86_64-linux-gnu", root / "usr/lib/x86_64-linux-gnu"]
    places += [p for p in places[1].glob("*") if p.is_dir() and p.name == "perl"]
    done = subprocess.run(
        [loader, "--library-path", ":".join(map(str, places)), "--list", program],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0 or "not found" in done.stdout:
        raise ImageError(f"{program.name}: {done.stdout}{done.stderr}".strip())
    return [Path(p) for p in re.findall(r"=> (/\S+)", done.stdout)] + [loader]


def base_tree(tree: Path, unpacked: Path) -> None:
    """busybox, the drivers, init and the jobs."""
    (tree / "bin").mkdir(parents=True)
    (tree / "modules").mkdir()
    (tree / "usr/bin").mkdir(parents=True)
    busybox = next(p for p in unpacked.rglob("bin/busybox") if p.is_file())
    shutil.copy(busybox, tree / "bin/busybox")
    shutil.copy(HERE / "init", tree / "init")
    shutil.copy(HERE / "cpc-job", tree / "usr/bin/cpc-job")
    kernel_tree = next(unpacked.rglob("lib/modules/*/kernel")).parent
    files = module_files(kernel_tree)
    builtin = (kernel_tree / "modules.builtin").read_text()
    orders = {"order": load_order(files, MODULES, builtin)}
    if "sev_guest" in files:
        orders["attest"] = load_order(files, ATTEST_MODULES, builtin)
    for name, order in orders.items():
        for module in order:
            (tree / "modules" / f"{module}.ko").write_bytes(module_bytes(files[module]))
        (tree / "modules" / name).write_text("".join(f"{module}.ko\n" for module in order))


def tools_tree(tree: Path, unpacked: Path) -> None:
    """The real programs and the libraries they load."""
    (tree / "lib64").mkdir(parents=True)
    (tree / "usr/lib").mkdir(parents=True)
    for folder, names in PROGRAMS.items():
        (tree / folder).mkdir(parents=True, exist_ok=True)
        for name in names:
            found = [p for p in unpacked.rglob(name) if p.parent.name in ("bin", "sbin")]
            if not found:
                raise ImageError(f"no {name} in the packages")
            program = found[0].resolve()
            shutil.copy(program, tree / folder / name)
            for library in libraries(unpacked, program):
                place = "lib64" if library.name.startswith("ld-linux") else "usr/lib"
                shutil.copy(library.resolve(), tree / place / library.name)


def build(out: Path, suite: str, packages: list[str]) -> None:
    """Fetch, unpack and pack everything into out."""
    unpacked = out / "unpacked"
    for path in debian.fetch(packages, suite):
        debian.unpack(path, unpacked)
    shutil.copy(kernel_file(unpacked), out / "vmlinuz")
    base_tree(out / "base", unpacked)
    tools_tree(out / "tools", unpacked)
    archive(out / "base", out / "tiny.cpio")
    archive(out / "tools", out / "tools.cpio")
    # The kernel unpacks archives one after the other.
    with (out / "guest.cpio").open("wb") as stream:
        for part in ("tiny.cpio", "tools.cpio"):
            stream.write((out / part).read_bytes())
    (out / "tools.cpio").unlink()
    for name in ("unpacked", "base", "tools"):
        shutil.rmtree(out / name)


def recipe_key() -> str:
    """Digest of the recipe. Package versions are fixed when it is first built."""
    inputs = [Path(__file__), HERE / "init", HERE / "cpc-job"]
    return store.key([debian.release(), " ".join(TOOLS)], inputs)


def main() -> int:
    """Build the guest unless it is there; 2 when packages cannot be had."""
    os.umask(0o022)
    suite = debian.release()

    def make(folder: Path) -> None:
        tools = [p for p in debian.closure(TOOLS, suite) if not UNUSED.search(p)]
        packages = [*kernel_packages(suite), "busybox-static", *tools]
        build(folder, suite, packages)
        (folder / "versions").write_text("\n".join(debian.versions(packages, suite)) + "\n")

    try:
        store.provide("guest", recipe_key(), make)
    except (debian.AptError, ImageError, subprocess.CalledProcessError) as error:
        store.say(f"error: the guest image cannot be built: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
