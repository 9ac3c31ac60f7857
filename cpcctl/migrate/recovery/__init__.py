# SPDX-License-Identifier: Apache-2.0
"""When a migration does not go as planned: bring the guest to one side, and say to which.

rollback: undo what has not committed. settle: ask both firmwares who runs the guest.
orphaned: a job whose controller died. stale: an incoming VM whose `receive` died.
state_machine.py decides, these do it; what cannot be proven is not acted upon.
"""
