# SPDX-License-Identifier: Apache-2.0
"""What every verb gets: settings, where to write, how to show progress."""

from __future__ import annotations

from dataclasses import dataclass

from cpcctl.config.settings import Settings
from cpcctl.ui.output import Output
from cpcctl.ui.progress import Progress, make


@dataclass
class Context:
    """Passed to run(args, ctx) of every verb."""

    settings: Settings
    out: Output

    def progress(self) -> Progress:
        """A renderer as --progress asks for."""
        return make(self.settings.progress, self.out.stderr)
