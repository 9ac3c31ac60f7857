# SPDX-License-Identifier: Apache-2.0
"""SEV-SNP: what is launched and how it is measured."""
