"""The symbolic proof of a lab network: the tables as ovs-vswitchd has them, the links and hosts as the test laid them, the policy
as the daemon lists it.

Above: system tests. Below: ovspane.verify.

    proof = Prover(lan, links, daemon.socket)
    proof.holds()                 # for all packets of all hosts
    proof.findings(kinds)         # what is wrong, by kind
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ovspane.cli.client import Client
from ovspane.network.walk import Fabric, Spot
from ovspane.probe.policy_picture import Picture, read_picture
from ovspane.verify import proof, reading
from tests.lab.topology import Lan

RUNDIR = Path("/var/run/openvswitch")


@dataclass(slots=True)
class Prover:
    """`links`: pairs of BRIDGE:PORT; `at`: hosts that moved, by name -> BRIDGE:PORT. `everywhere`: that placement."""

    lan: Lan
    links: set[frozenset[str]]
    socket: Path
    everywhere: bool = False
    at: dict[str, str] = field(default_factory=dict)
    last: proof.Proof | None = None

    def picture(self) -> Picture:
        with Client(str(self.socket)) as client:
            client.ask("Format json.")
            return read_picture(lambda statement: client.ask(f"{statement}.").values["items"], False)

    def run(self) -> proof.Proof:
        """Read everything and prove."""
        bridges = asyncio.run(reading.read(RUNDIR, self.lan.bridges))
        spots: dict[str, Spot] = {
            f"{name}:{port.name}": (name, port.number) for name, bridge in bridges.items() for port in bridge.ports.values()
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
        self.last = proof.Proof(Fabric(bridges, links), proof.stations(hosts), self.picture(), self.everywhere)
        self.last.run()
        return self.last

    def findings(self, kinds: Iterable[str] = ()) -> list[proof.Finding]:
        """What is wrong, of these kinds (of all)."""
        return [found for found in self.run().findings.values() if not kinds or found.kind in kinds]

    def holds(self) -> None:
        """Everything is as the policy says."""
        found = self.findings()
        assert not found, "\n".join(map(str, found))
