#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Print the path of QEMU's source: an archive or an unpacked tree.
#
# In this order: what CPC_QEMU_SOURCE names; the store; Debian's source package
# of the pinned series, by the machine's own mirror and verified by apt. Nothing
# that is neither pinned nor signed is fetched. Needs no root. Exit 2 when none
# of them can be had.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
top=$(CDPATH='' cd -- "$here/../.." && pwd)
# shellcheck source=patches/qemu/base.pin
. "$here/base.pin"
store=${CPC_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/cpc}
folder=$store/downloads/qemu

if [ -n "${CPC_QEMU_SOURCE:-}" ]; then
    if [ ! -e "$CPC_QEMU_SOURCE" ]; then
        echo "error: CPC_QEMU_SOURCE names $CPC_QEMU_SOURCE, which is not there" >&2
        exit 2
    fi
    echo "$CPC_QEMU_SOURCE"
    exit 0
fi

# Accept a file: the pinned one by its checksum, another one of the series, which
# apt has verified, by its name.
accept() {
    case $(basename "$1") in
    "$debian_orig")
        if ! echo "$debian_sha256  $1" | sha256sum -c --status; then
            echo "error: $1 has the pinned name but not the pinned checksum; remove it" >&2
            exit 2
        fi
        ;;
    qemu_"$series".*.orig.tar.xz)
        echo "note: $(basename "$1") is not the pinned $version; the patches must apply without fuzz" >&2
        ;;
    *) return 1 ;;
    esac
    echo "$1"
    exit 0
}

if [ -f "$folder/$debian_orig" ]; then accept "$folder/$debian_orig"; fi
for file in "$folder"/qemu_"$series".*.orig.tar.xz; do
    if [ -f "$file" ]; then accept "$file"; fi
done

mkdir -p "$folder"
if (cd "$top" && python3 - "$debian_source" "$folder" <<'PYTHON') >&2; then
import sys
from pathlib import Path
from cpcctl.setup import debian, store
try:
    debian.fetch_source(sys.argv[1], Path(sys.argv[2]))
except debian.AptError as error:
    store.say(f"note: no source package from apt: {error}")
    sys.exit(1)
PYTHON
    for file in "$folder"/qemu_"$series".*.orig.tar.xz; do
        if [ -f "$file" ]; then accept "$file"; fi
    done
    echo "note: apt offers a QEMU of another series than $series" >&2
fi

echo "hint: name a local archive or tree of QEMU $series:  CPC_QEMU_SOURCE=PATH make qemu" >&2
exit 2
