# SPDX-License-Identifier: Apache-2.0
"""TCG or KVM: what is wanted, whether KVM works here, and what is taken."""
