"""All that one `ovspane verify` does: the policy and the network as the daemon lists them, the tables as the switches
have them, the proof; and once more where something is wrong, since something may have changed meanwhile.

It changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ovspane.audit.oracle import Ask, PolicyOracle, read_oracle
from ovspane.audit.verify.proof import Finding, Proof, Station, stations
from ovspane.audit.verify.reading import read, read_ports
from ovspane.dataplane.tables import BridgeTables
from ovspane.dataplane.walk import Fabric, Spot

Item = dict[str, Any]
#: a finding counts when it is still there after everything was read again, so many times, so long apart (seconds)
LOOKS, PAUSE = 4, 0.5
#: how long requests that are not installed yet are waited for (seconds)
PENDING = 5.0


class CannotVerify(Exception):
    """There is nothing to prove; the text says why."""


@dataclass(frozen=True, slots=True)
class VerifySettings:
    """Of the daemon's: where the switch is, and what its flows depend on."""

    rundir: Path
    ovsdb: str
    meter_base: int = 1_000_000
    default_deny: bool = False
    everywhere: bool = True


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """`requests`: how many active ones there are. `notes`: what the proof takes for granted."""

    findings: tuple[Finding, ...]
    bridges: tuple[str, ...]
    hosts: int
    requests: int
    notes: tuple[str, ...]


async def verify(settings: VerifySettings, ask: Ask) -> VerifyReport:
    """Raises CannotVerify, NoPicture, SessionError, ControlUnavailable, BudgetSpent, OSError, and what `ask` raises."""
    report = await _look(settings, ask)
    for _ in range(LOOKS - 1):
        if not report.findings:
            break
        await asyncio.sleep(PAUSE)
        report = await _look(settings, ask)
    return report


async def _look(settings: VerifySettings, ask: Ask) -> VerifyReport:
    oracle = await _settled(settings, ask)
    items = ask("ListTopology")
    bridges = await read(
        settings.rundir, [item["name"] for item in items if item["kind"] == "bridge" and not item["host"]]
    )
    there, hosts = network(items, bridges)
    if not hosts:
        raise CannotVerify("no host is known on a bridge of this host, so there is nothing to prove")
    numbers = _numbers(bridges)
    rows, vlans = await read_ports(settings.ovsdb)
    there = replace(there, vlans=vlans)
    queues = {numbers[name]: has for (bridge, port), has in rows.items() if (name := f"{bridge}:{port}") in numbers}
    proof = Proof(there, hosts, oracle, settings.everywhere, settings.meter_base, queues)
    findings = await asyncio.to_thread(proof.run)
    return VerifyReport(
        tuple(findings), tuple(bridges), len(hosts), len(oracle.tree.requests), tuple(_notes(items, bridges))
    )


async def _settled(settings: VerifySettings, ask: Ask) -> PolicyOracle:
    until = asyncio.get_running_loop().time() + PENDING
    while True:
        oracle = read_oracle(ask, settings.default_deny)
        if not oracle.pending or asyncio.get_running_loop().time() > until:
            return oracle
        await asyncio.sleep(0.1)


def _numbers(bridges: dict[str, BridgeTables]) -> dict[str, Spot]:
    """BRIDGE:PORT -> the port by number."""
    return {
        f"{name}:{port.name}": (name, port.number) for name, bridge in bridges.items() for port in bridge.ports.values()
    }


def network(items: Iterable[Item], bridges: dict[str, BridgeTables]) -> tuple[Fabric, list[Station]]:
    """Links between these bridges, and the hosts on them, of the items of `ListTopology.`. What goes to another
    host's bridge has left."""
    numbers = _numbers(bridges)
    links: dict[Spot, Spot] = {}
    hosts = []
    for item in items:
        if item["kind"] == "link" and item["a"] in numbers and item["b"] in numbers:
            a, b = numbers[item["a"]], numbers[item["b"]]
            links |= {a: b, b: a}
        elif item["kind"] == "host" and item["at"] in numbers:
            hosts.append((item["mac"], filter(None, item["addresses"].split(",")), numbers[item["at"]]))
    return Fabric(bridges, links), stations(hosts)


def _notes(items: Iterable[Item], bridges: dict[str, BridgeTables]) -> Iterable[str]:
    for name, bridge in bridges.items():
        for flow in bridge.left_out:
            yield f"{name}: what its hidden flow {flow} takes is left out"
    for item in items:
        if item["kind"] == "port" and item["vlan"] and item["bridge"] in bridges:
            yield f"{item['name']} has VLAN settings or is a bond: NORMAL is taken to treat it as any other port"
