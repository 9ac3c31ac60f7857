#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Print a hash of everything the image depends on: our sources and the pins of
# libraries and compiler. Built things are kept under this name.
set -eu
cd -- "$(dirname -- "$0")"
find . ../abi ../kvm-probe -type f ! -path '*/__pycache__/*' | LC_ALL=C sort | xargs sha256sum |
    sha256sum | cut -c1-16
