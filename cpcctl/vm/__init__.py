# SPDX-License-Identifier: Apache-2.0
"""VMs of this host: what one is, its QEMU command line, its life."""
