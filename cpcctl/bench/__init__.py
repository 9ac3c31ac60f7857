# SPDX-License-Identifier: Apache-2.0
"""Our migration beside QEMU's own plaintext one, of the same guest, in the same run."""
