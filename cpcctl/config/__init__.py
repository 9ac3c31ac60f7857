# SPDX-License-Identifier: Apache-2.0
"""Where settings come from: flags, environment, files."""
