# SPDX-License-Identifier: Apache-2.0
"""What this machine can do, check by check."""
