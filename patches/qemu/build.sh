#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Build the patched QEMU into the store and link it as current/qemu.
#
# Rebuilds when the source, a patch or this script changed. The build folder is
# kept, and a changed patch recompiles only what it touches.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
top=$(CDPATH='' cd -- "$here/../.." && pwd)
store=${CPC_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/cpc}
work=$store/work/qemu
jobs=${CPC_JOBS:-$(nproc)}
abi=$top/guest-agent/abi/cpc_abi.h
wheels=$here/wheels.txt

mkdir -p "$store/current" "$work"
exec 9> "$store/.qemu.lock"
flock 9

series() { sed -e 's/#.*//' -e 's/[[:space:]]*$//' -e '/^$/d' "$here/series" 2> /dev/null || :; }
# Size and time stand for the content of a big archive or of a tree: an edit
# changes them, and the key is computed at every make.
identity() {
    if [ -d "$1" ]; then
        find "$1" -name .git -prune -o -type f -printf '%P %s %T@\n' | LC_ALL=C sort | sha256sum
    else
        stat -L -c '%n %s %Y' "$1"
    fi
}

source=$("$here/fetch.sh")
key=$( (
    identity "$source"
    cat "$here/base.pin" "$here/apply.sh" "$here/build.sh" "$wheels" "$abi"
    for name in $(series); do echo "$name" && cat "$here/$name"; done
) | sha256sum | cut -c1-16)
final=$store/qemu-$key

publish() {
    ln -sfn "../qemu-$key" "$store/current/.qemu.new"
    mv -T "$store/current/.qemu.new" "$store/current/qemu"
}
if [ -x "$final/bin/qemu-system-x86_64" ]; then
    publish
    exit 0
fi

# Its output goes to a log; a person sees where it is.
log=$store/log/qemu.log
run() {
    what=$1
    shift
    python3 "$top/cpcctl/setup/watched.py" "qemu: $what" "$log" "$@"
}

rm -rf "$work/fresh"
mkdir "$work/fresh"
if [ -d "$source" ]; then
    run "copying $source" cp -a "$source/." "$work/fresh/"
else
    run "unpacking" tar -C "$work/fresh" --strip-components=1 -xvf "$source"
fi
run "patching" "$here/apply.sh" "$work/fresh"
# The border with the firmware has one definition; no patch carries a copy.
cp "$abi" "$work/fresh/include/hw/i386/cpc_abi.h"
python3 "$here/sync_tree.py" "$work/fresh" "$work/src"
rm -rf "$work/fresh"

env=$store/work/qemu-python-$(sha256sum < "$wheels" | cut -c1-8)
# Scripts and build folder name the place they were made in: what was moved or
# copied from elsewhere would run what is there, or nothing.
if [ "$(cat "$env/ready" 2> /dev/null)" != "$env" ]; then
    rm -rf "$env"
    /usr/bin/python3 -m venv "$env"
    run "installing meson" "$env/bin/pip" install --disable-pip-version-check \
        --no-deps --only-binary :all: --require-hashes -r "$wheels"
    echo "$env" > "$env/ready"
fi

if [ -f "$work/build/build.ninja" ] && ! grep -qF "regenerate $work/src " "$work/build/build.ninja"; then
    echo "qemu: the build folder was made in another place; it is made anew" >&2
    rm -rf "$work/build"
fi
mkdir -p "$work/build"
cd "$work/build"
configured=$(cat "$here/build.sh" "$here/base.pin" | sha256sum)
if [ ! -f build.ninja ] || [ "$configured" != "$(cat .configured 2> /dev/null)" ]; then
    run configuring "$work/src/configure" --python="$env/bin/python" --target-list=x86_64-softmmu \
        --without-default-features --enable-tcg --enable-kvm --enable-slirp --enable-gnutls \
        --enable-seccomp --enable-fdt=system --disable-docs --disable-install-blobs \
        --disable-download
    echo "$configured" > .configured
fi
run compiling ninja -j "$jobs" qemu-system-x86_64

part=$final.part
rm -rf "$part"
mkdir -p "$part/bin" "$part/share/qemu"
strip -o "$part/bin/qemu-system-x86_64" qemu-system-x86_64
(cd "$top" && python3 "$here/fetch_bios.py" "$part/share/qemu")
cp "$work/src/COPYING" "$part/"
cp "$work/src/VERSION" "$part/"
rm -rf "$final"
mv "$part" "$final"
publish
echo "qemu: built $final" >&2
