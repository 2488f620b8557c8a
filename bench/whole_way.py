"""The whole daemon on a real ovs-vswitchd (dummy datapath): from a statement on the Unix socket to its reply, and to the installed
flow. The group `way`.

Above: bench. Below: the tests' daemon_process and ovs_dummy. One statement at a time; the reply comes after the durable commit.
The flow is seen by asking vswitchd with ofproto/trace until it drops the packet, about 0.1 ms an ask. The baseline of the
installed flow is what a script would do instead: one `ovs-ofctl add-flow`, forked.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter

from bench.results import Result, percentile
from tests.daemon_bridges import bridge, daemon_on, drops
from tests.daemon_process import DaemonProcess, Talk
from tests.ovs_dummy import DummyOvs

RESIDENT = (0, 1_000, 10_000)
STATEMENTS = 200
FORKS = 20
BATCH = 100
#: to the flow of a statement, at most (seconds)
PATIENCE = 30.0


def results(seconds: float) -> Iterator[Result]:
    """The group. `seconds` bounds the loading of what is resident."""
    with DummyOvs() as ovs:
        bridge(ovs, "br0")
        forked = _forked(ovs)
        with daemon_on(ovs) as daemon:
            talk, there = daemon.client(), 0
            for wanted in RESIDENT:
                start = perf_counter()
                loaded = _load(talk, there, wanted, start + seconds)
                if loaded < wanted:
                    note = f"{loaded} of {wanted} requests were accepted within {seconds:.0f} s"
                    yield Result(f"way.{wanted}.reply_ms_p50", None, "ms", wanted, note=note)
                    return
                if wanted:
                    rate = (wanted - there) / (perf_counter() - start)
                    yield Result(f"way.{wanted}.accepted_per_s", rate, "statements/s", wanted)
                daemon.settle(seconds)
                yield from _measure(ovs, daemon, talk, wanted, forked)
                there = wanted + STATEMENTS
            yield Result(f"way.{there}.daemon_megabytes", daemon.memory / 1e6, "MB", there)


def _address(number: int) -> str:
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def _statement(number: int) -> str:
    return f"deny(srcHost={_address(number)}, transport=TCP, dstPort=80) on rootShare.\n"


def _load(talk: Talk, there: int, wanted: int, until: float) -> int:
    """Have `wanted` requests; returns how many there are when it is time to stop."""
    while there < wanted and perf_counter() < until:
        some = min(BATCH, wanted - there)
        talk.send("".join(_statement(number) for number in range(there, there + some)))
        for _ in range(some):
            [reply] = talk.reply()
            if not reply.startswith("OK"):
                raise RuntimeError(reply)
        there += some
    return there


def _measure(ovs: DummyOvs, daemon: DaemonProcess, talk: Talk, resident: int, forked: float) -> Iterator[Result]:
    replies, installed = [], []
    for number in range(resident, resident + STATEMENTS):
        packet = f"in_port=1,tcp,nw_src={_address(number)},nw_dst=10.255.0.1,tp_dst=80"
        start = perf_counter()
        reply = talk.ask(_statement(number).rstrip("\n"))
        replies.append((perf_counter() - start) * 1000)
        if not reply.startswith("OK"):
            raise RuntimeError(reply)
        while not drops(ovs, packet):
            if perf_counter() > start + PATIENCE:
                raise RuntimeError(f"no flow within {PATIENCE} s:\n{daemon.log}")
        installed.append((perf_counter() - start) * 1000)
    for percent in (50, 99):
        yield Result(f"way.{resident}.reply_ms_p{percent}", percentile(replies, percent), "ms", resident)
        yield Result(f"way.{resident}.installed_ms_p{percent}", percentile(installed, percent), "ms", resident, forked)


def _forked(ovs: DummyOvs) -> float:
    """Milliseconds of one `ovs-ofctl add-flow`, the median."""
    times = []
    for number in range(FORKS):
        start = perf_counter()
        ovs.ofctl("add-flow", "br0", f"table=50,priority=3,tcp,nw_src={_address(number)},tp_dst=80,actions=drop")
        times.append((perf_counter() - start) * 1000)
    ovs.ofctl("del-flows", "br0", "table=50")
    return percentile(times, 50)
