#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Write the series anew from a tree made by `apply.sh --git`, after its commits
# were edited: one patch a commit since the tag cpc-base. An untouched tree
# gives back every byte.
#
#   refresh.sh TREE [OUT]      OUT is this folder if not given
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
if [ $# -lt 1 ] || [ $# -gt 2 ] || ! git -C "$1" rev-parse -q --verify cpc-base > /dev/null; then
    echo "usage: refresh.sh TREE [OUT]   (TREE made by apply.sh --git)" >&2
    exit 2
fi
tree=$1
out=$(CDPATH='' cd -- "${2:-$here}" && pwd)
if [ -n "$(git -C "$tree" status --porcelain --untracked-files=no)" ]; then
    echo "error: $tree has changes that are not committed" >&2
    exit 1
fi
part=$(mktemp -d)
trap 'rm -rf "$part"' EXIT
# Nothing of the machine, of git's version or of commit ids may show.
git -C "$tree" -c core.abbrev=12 -c diff.renames=false -c diff.algorithm=myers \
    -c format.pretty= -c diff.noprefix=false -c diff.mnemonicPrefix=false \
    format-patch -q -N --zero-commit --no-signature --full-index --no-stat \
    --no-base --no-thread --no-cover-letter --no-attach -o "$part" cpc-base..HEAD
{
    echo "# SPDX-License-Identifier: GPL-2.0-or-later"
    echo "# The patches, in order. All of them are under this licence."
    for name in "$part"/*.patch; do
        [ -e "$name" ] && basename "$name"
    done
} > "$part/series"
rm -f "$out"/*.patch
cp "$part"/* "$out/"
