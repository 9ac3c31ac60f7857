#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# fetch.sh NAME: make what `pins` has under that name available and print the
# folder it was unpacked to: the source of a library, or the compiler of the
# image. A second call only prints.
#
# The files come from CPC_<NAME>_FILES, a folder, when that is set (machines
# without network), else through the machine's own clients: pip for libaegis
# (its source is part of the pyaegis sdist), apt-get for mbedTLS (the source
# package of Debian trixie) and for the compiler (packages of Debian bookworm),
# from whichever Debian mirror this machine's apt already uses. Whatever its
# origin, a file whose SHA-256 is not the pinned one is refused. Exit 2 with
# the next command to type when that is not possible.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
cache=${CPC_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/cpc}
trusted_keys=/usr/share/keyrings/debian-archive-keyring.gpg

die() {
    echo "fetch.sh: $*" >&2
    exit 2
}

name=${1:-}
pins=$(grep "^$name " "$here/pins") || die "nothing called '$name' in $here/pins"
column() { echo "$pins" | awk "{ print \$$1 }"; }
version=$(column 2 | head -n 1)
dir=$cache/third-party/$name-$version-$(column 4 | sha256sum | cut -c1-16)
if [ -f "$dir/.complete" ]; then
    echo "$dir"
    exit 0
fi
mkdir -p "$cache/third-party"
work=$(mktemp -d "$cache/third-party/.fetch-$name-XXXXXX")
trap 'rm -rf "$work"' EXIT

# The mirror that this machine's apt already uses for Debian itself.
debian_mirror() {
    # shellcheck disable=SC2016
    apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 'Created-By: Packages' |
        sed -n 's/^Debian|Debian|//p' | head -n 1
}

# An apt that knows one suite, and nothing of this machine's packages.
# apt_of deb|deb-src SUITE COMMAND...
apt_of() {
    kind=$1 suite=$2
    shift 2
    mirror=$(debian_mirror)
    [ -n "$mirror" ] || return 1
    apt=$work/apt
    mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$work/files"
    : >"$apt/status"
    echo "$kind [signed-by=$trusted_keys] $mirror $suite main" >"$apt/sources.list"
    cat >"$apt/apt.conf" <<CONF
Dir::Etc::sourcelist "$apt/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State::Lists "$apt/lists";
Dir::State::status "$apt/status";
Dir::Cache "$apt";
APT::Sandbox::User "root";
Acquire::Languages "none";
CONF
    (cd "$work/files" && export APT_CONFIG="$apt/apt.conf" &&
        apt-get -qq update >&2 && apt-get -qq "$@" >&2)
}

# pip builds the sdist's metadata with what that names, and those may be wheels.
fetch_libaegis() {
    python=${CPC_PYTHON:-$cache/current/venv/bin/python}
    [ -x "$python" ] || python=python3
    "$python" -m pip download --quiet --no-deps --no-binary pyaegis \
        --dest "$work/files" "pyaegis==$version" >&2
}

fetch_mbedtls() {
    apt_of deb-src trixie source --download-only mbedtls
}

fetch_toolchain() {
    # shellcheck disable=SC2046
    apt_of deb bookworm download $(column 3 | sed 's/_.*//')
}

case $name in
libaegis) given=${CPC_LIBAEGIS_FILES:-} how="pip could not download pyaegis $version" ;;
mbedtls) given=${CPC_MBEDTLS_FILES:-} how="apt could not download the source of mbedtls" ;;
toolchain) given=${CPC_TOOLCHAIN_FILES:-} how="apt could not download packages of bookworm" ;;
esac
variable=CPC_$(echo "$name" | tr '[:lower:]' '[:upper:]')_FILES
hint="give $variable=/folder with: $(column 3 | tr '\n' ' ')"
mkdir "$work/files" "$work/tree"
if [ -z "$given" ]; then
    "fetch_$name" || die "$how; $hint"
    given=$work/files
fi

echo "$pins" | while read -r _ _ file sum; do
    [ -f "$given/$file" ] || die "$file of $name is not in $given; $hint"
    cp -- "$given/$file" "$work/$file"
    echo "$sum  $work/$file" | sha256sum --check --status ||
        die "$file is not the pinned one: SHA-256 $(sha256sum "$work/$file" | cut -d' ' -f1), expected $sum"
    case $file in
    *.deb) dpkg-deb -x "$work/$file" "$work/tree" ;;
    *) tar -xf "$work/$file" -C "$work/tree" --strip-components=1 ;;
    esac
done
touch "$work/tree/.complete"
# Two builds may fetch at once: whoever renames first wins, both are equal.
mv -T "$work/tree" "$dir" 2>/dev/null || [ -f "$dir/.complete" ] ||
    die "cannot create $dir"
echo "$dir"
