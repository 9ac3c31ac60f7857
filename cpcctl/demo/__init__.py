# SPDX-License-Identifier: Apache-2.0
"""The demonstration: two hosts on one machine, a live guest and what crossed between."""
