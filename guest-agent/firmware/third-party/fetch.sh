#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# fetch.sh NAME: make the pinned source of a library available and print the
# folder it was unpacked to. A second call only prints.
#
# The file comes from CPC_<NAME>_TARBALL when that is set (machines without
# network), else through the machine's own clients: pip for libaegis (its
# source is part of the pyaegis sdist), apt-get for mbedTLS (the source package
# of Debian trixie, from whichever Debian mirror this machine's apt already
# uses). Whatever its origin, a file whose SHA-256 is not the pinned one is
# refused. Exit 2 with the next command to type when that is not possible.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
cache=${CPC_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/cpc}
trusted_keys=/usr/share/keyrings/debian-archive-keyring.gpg

die() {
    echo "fetch.sh: $*" >&2
    exit 2
}

name=${1:-}
line=$(grep "^$name " "$here/pins") || die "no library called '$name' in $here/pins"
# shellcheck disable=SC2086
set -- $line
version=$2 file=$3 sum=$4
dir=$cache/third-party/$name-$version-$(echo "$sum" | cut -c1-16)
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

fetch_libaegis() {
    python=${CPC_PYTHON:-$cache/current/venv/bin/python}
    [ -x "$python" ] || python=python3
    "$python" -m pip download --quiet --no-deps --no-binary :all: \
        --dest "$work" "pyaegis==$version" >&2 ||
        die "pip could not download pyaegis $version; give CPC_LIBAEGIS_TARBALL=/path/to/$file"
}

fetch_mbedtls() {
    mirror=$(debian_mirror)
    [ -n "$mirror" ] ||
        die "apt knows no Debian mirror; give CPC_MBEDTLS_TARBALL=/path/to/$file"
    apt=$work/apt
    mkdir -p "$apt/lists/partial" "$apt/archives/partial"
    echo "deb-src [signed-by=$trusted_keys] $mirror trixie main" >"$apt/sources.list"
    cat >"$apt/apt.conf" <<CONF
Dir::Etc::sourcelist "$apt/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State::Lists "$apt/lists";
Dir::Cache "$apt";
APT::Sandbox::User "";
CONF
    (cd "$work" && export APT_CONFIG="$apt/apt.conf" &&
        apt-get -qq update >&2 &&
        apt-get -qq source --download-only mbedtls >&2) ||
        die "apt could not download the source of mbedtls; give CPC_MBEDTLS_TARBALL=/path/to/$file"
}

case $name in
libaegis) given=${CPC_LIBAEGIS_TARBALL:-} ;;
mbedtls) given=${CPC_MBEDTLS_TARBALL:-} ;;
esac
if [ -n "$given" ]; then
    cp -- "$given" "$work/$file" || die "cannot read $given"
else
    "fetch_$name"
fi
[ -f "$work/$file" ] || die "the download of $name did not contain $file"
echo "$sum  $work/$file" | sha256sum --check --status ||
    die "$file is not the pinned one: SHA-256 $(sha256sum "$work/$file" | cut -d' ' -f1), expected $sum"

mkdir "$work/tree"
tar -xf "$work/$file" -C "$work/tree" --strip-components=1
touch "$work/tree/.complete"
# Two builds may fetch at once: whoever renames first wins, both are equal.
mv -T "$work/tree" "$dir" 2>/dev/null || [ -f "$dir/.complete" ] ||
    die "cannot create $dir"
echo "$dir"
