"""`python -m tests.chaos.clocked FILE ARGUMENT...`: the command `ovspane` on a clock that is ahead by what FILE says
(a double, seconds), which may change at any moment.

The clock of a machine is everybody's, and a time namespace has none of its own: so here it is the process's. What else
differs from a daemon of its users: who changes our part of the switch more than ten times a minute is let win for a
while (switch.tampering.Contest), and here somebody does nothing else, so they never win.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import time

#: changes of others that are repaired at once
REPAIRS = 10**9


def skew(path: str) -> None:
    """Have `time` tell the time of the file."""
    descriptor = os.open(path, os.O_RDONLY)
    cell = mmap.mmap(descriptor, 8, prot=mmap.PROT_READ)
    os.close(descriptor)
    seconds, nanoseconds = time.time, time.time_ns

    def offset() -> float:
        return float(struct.unpack("=d", cell[:8])[0])

    time.time = lambda: seconds() + offset()
    time.time_ns = lambda: nanoseconds() + int(offset() * 1e9)


def main() -> int:
    """Run the command. Returns its exit status."""
    skew(sys.argv[1])
    from ovspane.cli.main import main as command
    from ovspane.switch.tampering import Contest

    Contest.__init__.__defaults__ = (REPAIRS, *Contest.__init__.__defaults__[1:])  # type: ignore[misc,index]
    return command(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
