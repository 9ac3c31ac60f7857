# SPDX-License-Identifier: Apache-2.0
"""Set-up of the machine: packages, downloads and the store of built things.

Everything here runs before the virtual environment exists, so it imports the
standard library only.
"""
