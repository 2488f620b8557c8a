"""What a hostile client costs an honest one: the time to the reply of an honest `deny`, beside each attack of
tests/support/attacks.py and without it, in one run on one daemon each.

`p99_ratio` is what counts: 99th percentile with the attack to that without. `megabytes`: what the daemon holds at its
end.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.results import Result, percentile
from tests.support.attacks import ATTACKS, SHARES, Attack, beside, honest
from tests.support.daemon_bridges import bridge, daemon_on
from tests.support.daemon_process import DaemonProcess
from tests.support.ovs_dummy import DummyOvs

#: what each attack prepares: entangled requests (as many as the quota of flows lets), requests to list, shares of
#: everybody
SIZES = {"explain": 72, "listings": 10_000, "guests": 10_000}
STATEMENTS = 300
SETTINGS = 'enforcement = "best-effort"\n[ports]\nbr0p1 = "10Gb"\nbr0p2 = "10Gb"\n'


def results(seconds: float) -> Iterator[Result]:
    """The group."""
    for name, attack in ATTACKS.items():
        with DummyOvs() as ovs:
            bridge(ovs, "br0")
            with daemon_on(ovs, SETTINGS) as daemon:
                daemon.do(*SHARES)
                yield from _case(daemon, name, attack, seconds / 3)


def _case(daemon: DaemonProcess, name: str, attack: Attack, seconds: float) -> Iterator[Result]:
    honest(daemon, 50)
    alone = honest(daemon, STATEMENTS, 1000)
    with beside(daemon, attack, SIZES.get(name, 0)):
        times = honest(daemon, STATEMENTS, 2000, seconds)
        memory = daemon.memory
    n = len(times)
    for percent in (50, 99):
        there, without = percentile(times, percent) * 1000, percentile(alone, percent) * 1000
        yield Result(f"hostile.{name}.p{percent}_ms", there, "ms", n, without)
    yield Result(f"hostile.{name}.p99_ratio", percentile(times, 99) / percentile(alone, 99), "x", n)
    yield Result(f"hostile.{name}.megabytes", memory / 1e6, "MB", n)
