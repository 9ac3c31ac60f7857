# SPDX-License-Identifier: Apache-2.0
"""What cpcctl knows of QEMU itself: descriptors that it inherits, image formats."""
