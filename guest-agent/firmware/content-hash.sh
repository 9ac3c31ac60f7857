#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Print a hash of everything the build depends on: our sources, the pins of the
# libraries, and the compiler. Built things are kept under this name.
set -eu
cd -- "$(dirname -- "$0")"
# First, so that one that is not there ends this.
compiler=$(${CC:-gcc} --version)
linker=$(ld --version)
{
    find . ../abi ../kvm-probe -type f ! -path '*/__pycache__/*' | LC_ALL=C sort | xargs sha256sum
    echo "$compiler"
    echo "$linker"
} | sha256sum | cut -c1-16
