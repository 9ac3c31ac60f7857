# SPDX-License-Identifier: Apache-2.0
"""Jobs: one run of an operation, readable also after it ended."""
