# SPDX-License-Identifier: Apache-2.0
"""A machine that cpcctl takes for the patched QEMU, and that starts in a twentieth of a second.

It has the ring file, both QMP sockets and the disks' locks, and the real firmware, built for a
plain process, does the real work on a guest of its own (machine.c). Nothing in cpcctl knows of
it: `vm start` and `receive` start it as QEMU (CPCCTL_QEMU), with QEMU's command line.

    build.py    the library, and the program that is QEMU
    qemu.py     the process: its main loop, how it ends
    command_line.py   what machine is asked for
    monitor.py  QMP on a socket
    machine.py  what the commands do
    stage.py    what a test holds in hand: the journal, points to stop at, the guest's own acts
"""
