# SPDX-License-Identifier: Apache-2.0
"""What a value of a YAML text is before its key has read it."""

from __future__ import annotations


class Plain(str):
    """A value that was written without quotes: a text, a number, true or false."""

    __slots__ = ()
