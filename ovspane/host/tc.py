"""What the kernel's HTB has, read by netlink (pyroute2), and in what it differs from our rows.

Open vSwitch tells nobody when the kernel has another rate than the row says: it wraps and clamps what it cannot
represent (lib/netdev-linux.c), `tc` of an administrator changes classes behind its back, and a qdisc that could not be
made is a line in its log. So we look.

Reading costs some 0.1 ms a class, so `TcWatch` reads in a thread, only ports that changed or that it is asked to look
at, and rests ten times as long as the reading took: at most a tenth of one processor, however many queues there are.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from ovspane.lang.units import rate_text

log = logging.getLogger(__name__)

#: seconds between a change and the look at it, so that many changes are one look; and before one that failed is tried
#: again
GATHER, AGAIN = 0.05, 0.25
#: how long it rests, in times the last reading took
REST = 10

_HTB_MAJOR: Final = 1  # lib/netdev-linux.c, htb_install__: the root qdisc is 1:
_HTB_ROOT: Final = 0xFFFE  # 1:fffe carries the port's own rate; queue N is 1:(N+1)


def read_tc(device: str) -> dict[int, tuple[int, int]]:
    """The HTB classes that the kernel has on a device, in this network namespace: queue id -> (rate, ceil), bit/s.

    Raises LookupError when there is no such device, OSError when the kernel refuses.
    """
    from pyroute2 import IPRoute  # not needed, and slow to import, where nobody asks for tc
    from pyroute2.netlink.exceptions import NetlinkError

    with IPRoute() as netlink:
        index = next(iter(netlink.link_lookup(ifname=device)), None)
        if index is None:
            raise LookupError(f"no network device {device}")
        found = {}
        try:
            for message in netlink.get_classes(index):
                options = message.get_attr("TCA_OPTIONS")
                major, minor = divmod(message["handle"], 1 << 16)
                if (
                    major != _HTB_MAJOR
                    or options is None
                    or message.get_attr("TCA_KIND") != "htb"
                    or minor == _HTB_ROOT
                ):
                    continue
                parameters = options.get_attr("TCA_HTB_PARMS")
                wide = [options.get_attr(name) for name in ("TCA_HTB_RATE64", "TCA_HTB_CEIL64")]
                rate, ceiling = (w or parameters[name] for w, name in zip(wide, ("rate", "ceil"), strict=True))
                found[minor - 1] = (rate * 8, ceiling * 8)
        except NetlinkError as problem:
            raise OSError(problem.code, f"{device}: {problem}") from problem
        return found


#: the rows of a port: queue id -> (rate, ceil) in bit/s, None: a row of somebody else, whatever it says
Rows = Mapping[int, tuple[int, int] | None]


def differences(rows: Rows, kernel: Mapping[int, tuple[int, int]]) -> dict[int, str]:
    """In what the kernel's classes (queue id -> (rate, ceil) in bit/s) differ from the rows of a port: queue id -> what
    is wrong. A class that is nobody's takes from all, so it is queue 0's trouble. The kernel counts bytes a second, so
    up to 7 bit/s are lost in rounding."""
    found = {}
    for number, wanted in rows.items():
        if wanted is None:
            continue
        (rate, ceiling), has = wanted, kernel.get(number)
        if has is None:
            found[number] = f"queue {number} is not in the kernel"
        elif has[0] // 8 != rate // 8:
            found[number] = f"queue {number} has {rate_text(has[0])} of {rate_text(rate)}"
        elif has[1] // 8 != ceiling // 8:
            found[number] = f"queue {number} may use {rate_text(has[1])} of {rate_text(ceiling)}"
    if (alien := next(iter(sorted(kernel.keys() - rows.keys())), None)) is not None:
        found.setdefault(0, f"somebody else's class 1:{alien + 1:x} has {rate_text(kernel[alien][0])}")
    return found


def remade(rows: Rows, kernel: Mapping[int, tuple[int, int]]) -> bool:
    """True iff it does not help to set our classes again: the root qdisc is not ours any more (a QoS row that stays is
    not applied to another one), or there are classes of somebody else in it."""
    return not kernel.keys() & rows.keys() or bool(kernel.keys() - rows.keys())


class TcWatch:
    """Compares ports with what the kernel has. `rows(port)`: our queues there, queue id -> (rate, ceil), None while
    that is about to change; `on_compared(port, queue ids)`: a look at the port found or ended trouble; of these queues
    `trouble` changed."""

    def __init__(
        self,
        rows: Callable[[str], Rows | None],
        on_compared: Callable[[str, frozenset[int]], None],
    ) -> None:
        self._rows = rows
        self._on_compared = on_compared
        self._due: dict[str, None] = {}
        self._wake = asyncio.Event()
        #: port -> queue id -> how the kernel's queue differs from our row
        self.trouble: dict[str, dict[int, str]] = {}
        #: those whose queues have to be made anew
        self.remade: set[str] = set()

    def check_soon(self, ports: Iterable[str]) -> None:
        """Compare these ports soon."""
        self._due.update(dict.fromkeys(ports))
        if self._due:
            self._wake.set()

    def drop(self, ports: Iterable[str]) -> None:
        """These have no queues of ours any more."""
        for port in ports:
            self._due.pop(port, None)
            if port in self.trouble:
                self._found(port, {})

    async def run(self) -> None:
        """Compare until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            await asyncio.sleep(GATHER)
            self._wake.clear()
            due, self._due = list(self._due), {}
            start = loop.time()
            again = [port for port in due if not await self._check(port)]
            await asyncio.sleep(REST * (loop.time() - start) + (AGAIN if again else 0.0))
            self.check_soon(again)

    async def _check(self, port: str) -> bool:
        """False: try again, the rows were changing meanwhile."""
        before = self._rows(port)
        if not before:
            return before is not None
        try:
            kernel = await asyncio.to_thread(read_tc, port)
        except LookupError:  # in another network namespace than ours: nothing can be said
            return True
        except OSError as problem:
            log.debug("tc of %s: %s", port, problem)
            return False
        if self._rows(port) != before:
            return False
        found = differences(before, kernel)
        (self.remade.add if found and remade(before, kernel) else self.remade.discard)(port)
        self._found(port, found)
        return True

    def _found(self, port: str, found: dict[int, str]) -> None:
        old = self.trouble.pop(port, {})
        if found:
            self.trouble[port] = found
        if found and found != old:
            log.warning("port %s: the kernel has other queues than it was told: %s", port, "; ".join(found.values()))
        if found or old:
            changed = (number for number in old.keys() | found.keys() if old.get(number) != found.get(number))
            self._on_compared(port, frozenset(changed))
