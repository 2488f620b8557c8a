"""The symbolic proof of a lab network: the tables as ovs-vswitchd has them, the links and hosts as the test laid them,
the policy as the daemon lists it.

    proof = Prover(lan, links, socket)
    proof.holds()                 # for all packets of all hosts, once the daemon is done
    proof.kinds()                 # what is wrong now
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path

from ovspane.audit.oracle import PolicyOracle, read_oracle
from ovspane.audit.verify import proof, reading
from ovspane.cli.client import Client
from ovspane.dataplane.walk import Fabric, Spot
from tests.lab.topology import Lan
from tests.support.patience import PATIENCE

RUNDIR = Path("/var/run/openvswitch")


@dataclass(slots=True)
class Prover:
    """`links`: pairs of BRIDGE:PORT; `at`: hosts that moved, by name -> BRIDGE:PORT. `everywhere`: that placement.
    `kept`: the policy, instead of the daemon's word."""

    lan: Lan
    links: set[frozenset[str]]
    socket: Path
    everywhere: bool = False
    at: dict[str, str] = field(default_factory=dict)
    kept: PolicyOracle | None = None
    last: proof.Proof | None = None

    def oracle(self) -> PolicyOracle:
        with Client(str(self.socket)) as client:
            client.ask("Format json.")
            return read_oracle(lambda statement: client.ask(f"{statement}.").values["items"], False)

    def run(self) -> list[proof.Finding]:
        """Read everything and prove; what is wrong."""
        bridges = asyncio.run(reading.read(RUNDIR, self.lan.bridges))
        spots: dict[str, Spot] = {
            f"{name}:{port.name}": (name, port.number)
            for name, bridge in bridges.items()
            for port in bridge.ports.values()
        }
        links: dict[Spot, Spot] = {}
        for ends in self.links:
            a, b = sorted(ends)
            for here, there in ((a, b), (b, a)):
                if here in spots:
                    links[spots[here]] = spots.get(there, (there.split(":")[0], 0))
        hosts = [
            (host.mac, [host.ip], spots[where])
            for host in self.lan.hosts
            if (where := self.at.get(host.name, f"{host.bridge}:{host.device}")) in spots
        ]
        told, vlans = asyncio.run(reading.read_ports(f"unix:{RUNDIR}/db.sock"))
        queues = {spots[f"{bridge}:{port}"]: has for (bridge, port), has in told.items() if f"{bridge}:{port}" in spots}
        oracle = self.kept or self.oracle()
        fabric, there = Fabric(bridges, links, vlans), proof.stations(hosts)
        self.last = proof.Proof(fabric, there, oracle, self.everywhere, queues=queues, best_effort=True)
        return self.last.run()

    def kinds(self) -> set[str]:
        return {finding.kind for finding in self.run()}

    def holds(self, seconds: float = PATIENCE) -> None:
        """Everything is as the policy says, within that time: what changes is not there at once."""
        deadline = time.monotonic() + seconds
        while found := self.run():
            assert time.monotonic() < deadline, "\n".join(map(str, found))
            time.sleep(0.1)
