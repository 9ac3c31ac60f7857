# SPDX-License-Identifier: Apache-2.0
"""The Debian guest in which KVM works: a kernel, an initramfs and a root file system.

Made from Debian's own packages, without root, as the small guest is. Result, in
``current/nested``: ``vmlinuz``, ``initrd.cpio`` (busybox, drivers and ``init``)
and ``debian.ext4`` (what Python, the tests and our QEMU run on).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from cpcctl.demo import image
from cpcctl.setup import debian, store

HERE = Path(__file__).parent
TOOLS = [
    "base-files", "bash", "coreutils", "dash", "e2fsprogs", "grep", "iproute2", "mount",
    "python3", "sed", "util-linux",
]  # fmt: skip
# Of what those depend on, what only matters to an installed system.
UNUSED = re.compile(r"debconf$|^dpkg$|perl|^logsave$")
MODULES = [
    "virtio_pci", "virtio_blk", "virtio_console", "ext4", "crc32c_generic", "overlay",
    "kvm_amd", "tun", "veth", "bridge", "af_packet", "loop",
]  # fmt: skip
# What an installer would have written.
ETC = {
    "passwd": "root:x:0:0:root:/root:/bin/bash\n",
    "group": "root:x:0:\n",
    "hosts": "127.0.0.1 localhost nested\n",
    "fstab": "",
}
MERGED = ("bin", "sbin", "lib", "lib64")
MIB = 1 << 20


def library_packages(program: Path) -> list[str]:
    """Packages whose shared libraries a program of this machine loads."""
    listed = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=True)
    found = set()
    for path in re.findall(r"=> (/\S+)", listed.stdout):
        # dpkg knows a file by the name it was installed under, /usr or not.
        names = {path, os.path.realpath(path)}
        names |= {name.removeprefix("/usr") for name in names} | {f"/usr{n}" for n in names}
        done = subprocess.run(
            ["dpkg-query", "-S", *sorted(names)], capture_output=True, text=True, check=False
        )
        found |= set(re.findall(r"^([a-z0-9.+-]+)[:,]", done.stdout, re.M))
    return sorted(found)


def merge_usr(root: Path) -> None:
    """Move /bin, /sbin and /lib* into /usr, where an installer would have put them."""
    for name in MERGED:
        old, new = root / name, root / "usr" / name
        if old.is_dir() and not old.is_symlink():
            shutil.copytree(old, new, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(old)
        new.mkdir(parents=True, exist_ok=True)
        old.symlink_to(f"usr/{name}")


def file_system(tree: Path, out: Path) -> None:
    """Pack a tree as a small ext4 that is only ever read."""
    count, size = 0, 0
    for folder, names, files in os.walk(tree):
        count += 1 + len(names) + len(files)
        for name in files:
            size += (os.lstat(os.path.join(folder, name)).st_size + 4096) // 4096 * 4096
    with out.open("wb") as stream:
        stream.truncate((size + count * 1024) * 11 // 10 + 16 * MIB)
    mke2fs = shutil.which("mke2fs", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    subprocess.run(
        [
            mke2fs or "mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0",
            "-N", str(count + 256), "-E", "root_owner=0:0,lazy_itable_init=1",
            "-d", str(tree), str(out),
        ],
        check=True,
    )


def first_system(tree: Path, kernel: Path) -> None:
    """The initramfs: busybox, the drivers in the order they load, and init."""
    (tree / "bin").mkdir(parents=True)
    (tree / "modules").mkdir()
    shutil.copy(next(p for p in kernel.rglob("bin/busybox") if p.is_file()), tree / "bin")
    shutil.copy(HERE / "init", tree / "init")
    (tree / "init").chmod(0o755)
    modules = next(kernel.rglob("lib/modules/*/kernel")).parent
    files = image.module_files(modules)
    order = image.load_order(files, MODULES, (modules / "modules.builtin").read_text())
    for name in order:
        (tree / "modules" / f"{name}.ko").write_bytes(image.module_bytes(files[name]))
    (tree / "modules/order").write_text("".join(f"{name}.ko\n" for name in order))


def build(out: Path, suite: str, libraries: list[str]) -> None:
    """Fetch, unpack and pack everything into out."""
    kernel_packages = image.kernel_packages(suite)
    packages = [p for p in debian.closure([*TOOLS, *libraries], suite) if not UNUSED.search(p)]
    for path in debian.fetch([*kernel_packages, "busybox-static"], suite):
        debian.unpack(path, out / "kernel")
    shutil.copy(image.kernel_file(out / "kernel"), out / "vmlinuz")
    first_system(out / "first", out / "kernel")
    image.archive(out / "first", out / "initrd.cpio")
    for path in debian.fetch(packages, suite):
        debian.unpack(path, out / "root")
    merge_usr(out / "root")
    for name, text in ETC.items():
        (out / "root/etc" / name).write_text(text)
    for name in ("usr/share/doc", "usr/share/man", "usr/share/locale"):
        shutil.rmtree(out / "root" / name, ignore_errors=True)
    file_system(out / "root", out / "debian.ext4")
    for name in ("kernel", "first", "root"):
        shutil.rmtree(out / name)
    (out / "versions").write_text("\n".join(debian.versions(packages, suite)) + "\n")


def provide(qemu: Path) -> Path:
    """The guest's folder, built when it is not there.

    qemu: whose libraries the guest needs. Raises AptError, ImageError, CalledProcessError.
    """
    suite = debian.release()
    libraries = library_packages(qemu)
    texts = [suite, *libraries]
    sources = [Path(__file__), Path(image.__file__), HERE / "init"]
    return store.provide(
        "nested", store.key(texts, sources), lambda out: build(out, suite, libraries)
    )
