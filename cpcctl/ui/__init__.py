# SPDX-License-Identifier: Apache-2.0
"""What a person sees: results, progress, checks; no verb is known here."""
