# SPDX-License-Identifier: Apache-2.0
"""Live migration: the phase machine, both ends of it, preflight and recovery."""
