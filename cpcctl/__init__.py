# SPDX-License-Identifier: Apache-2.0
"""cpcctl: the host side of confidential procedure calls. It moves ciphertext only."""

__version__ = "0.1.0"
