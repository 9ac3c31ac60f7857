# SPDX-License-Identifier: Apache-2.0
"""Adapters: everything that touches QEMU, the ring file, processes and folders."""
