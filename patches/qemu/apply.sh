#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Apply the series to an unpacked QEMU tree.
#
#   apply.sh TREE          patch the files, without fuzz
#   apply.sh --git TREE    make TREE a git repository: one commit for the base,
#                          one for each patch; refresh.sh takes it from there
#
# Exit 1, naming the patch, when one does not apply; TREE is then not usable.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
git=no
if [ "${1:-}" = --git ]; then
    git=yes
    shift
fi
if [ $# -ne 1 ] || [ ! -f "$1/VERSION" ]; then
    echo "usage: apply.sh [--git] TREE   (an unpacked QEMU)" >&2
    exit 2
fi
tree=$1

# The border to firmware and controller is defined once, in guest-agent/abi. The
# series includes that file and does not carry a copy of it.
header=include/hw/i386/cpc_abi.h
copy_header() { cp "$here/../../guest-agent/abi/cpc_abi.h" "$tree/$header"; }

patches() {
    [ -f "$here/series" ] || return 0
    sed -e 's/#.*//' -e 's/[[:space:]]*$//' -e '/^$/d' "$here/series"
}

if [ "$git" = yes ]; then
    # Fixed settings, so that refresh.sh gives the same bytes on any machine.
    git -C "$tree" init -q
    git -C "$tree" config core.autocrlf false
    git -C "$tree" config commit.gpgsign false
    git -C "$tree" config gc.auto 0
    git -C "$tree" config user.name "CPC series"
    git -C "$tree" config user.email "series@invalid"
    git -C "$tree" add -A -f
    git -C "$tree" commit -q --no-verify -m "base: QEMU $(cat "$tree/VERSION")"
    git -C "$tree" tag cpc-base
    echo "/$header" >> "$tree/.git/info/exclude"
    for name in $(patches); do
        if ! git -C "$tree" am -q --keep-cr --no-3way "$here/$name"; then
            echo "error: $name does not apply to QEMU $(cat "$tree/VERSION")" >&2
            exit 1
        fi
    done
    copy_header
    exit 0
fi

for name in $(patches); do
    if ! patch -d "$tree" -p1 --fuzz=0 -f -s --no-backup-if-mismatch < "$here/$name" >&2; then
        echo "error: $name does not apply to QEMU $(cat "$tree/VERSION") without fuzz" >&2
        exit 1
    fi
done
copy_header
