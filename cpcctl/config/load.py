# SPDX-License-Identifier: Apache-2.0
"""Reads the configuration files and the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from cpcctl.config.settings import (
    Settings,
    defaults,
    from_document,
    from_environment,
    resolve,
)
from cpcctl.errors import CpcError, ExitCode, reason
from cpcctl.host.files import read_all

FILE_LIMIT = 64 << 10
SYSTEM_FILE = Path("/etc/cpcctl/config.yaml")


def load(flags: Mapping[str, str | None], env: Mapping[str, str] | None = None) -> Settings:
    """Flags, then CPCCTL_*, then the user's file, then the system's file.

    Raises CpcError (2) for a file that cannot be read or has unknown keys.
    """
    env = os.environ if env is None else env
    folder = env.get("XDG_CONFIG_HOME") or (env.get("HOME") or "/") + "/.config"
    layers: list[Mapping[str, str | None]] = [flags, from_environment(env)]
    layers += [_read(path) for path in (Path(folder) / "cpcctl" / "config.yaml", SYSTEM_FILE)]
    layers.append(defaults(env, os.geteuid() == 0, os.uname().nodename))
    return resolve(layers)


def _read(path: Path) -> dict[str, str | None]:
    try:
        data = read_all(path, FILE_LIMIT)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise CpcError(
            f"{path} cannot be read", exit_code=ExitCode.USAGE, cause=reason(error)
        ) from error
    # Heavy, and most hosts have no such file.
    from cpcctl.config.document import parse

    return {**from_document(parse(data, str(path)), str(path))}
