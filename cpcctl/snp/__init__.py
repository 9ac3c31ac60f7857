# SPDX-License-Identifier: Apache-2.0
"""SEV-SNP guests: their definition, what they need, what is measured of them."""
