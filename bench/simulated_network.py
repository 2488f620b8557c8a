"""A fat-tree with hosts and requests, simulated: the daemon's pure rooms, wired as the daemon wires them, without a
switch.

Seeded, so every run has the same.

A fat-tree of k-port switches (Al-Fares et al., SIGCOMM 2008): k pods of k/2 edge and k/2 aggregation switches each, and
k**2/4 core switches, so 5 k**2 / 4 switches and k**3/4 ports for hosts. Between two pods there are k**2/4 equal
shortest paths: nothing here is a tree, all rests on redundant links. All bridges are this host's and all links veth
pairs, as in an emulation: so one daemon programs everything, which is more than any daemon of a real network does.

Requests are between hosts, in the names of TENANTS shares: each hundred has 40 reserve, 30 allow, 20 deny, 10
ratelimit, as a mixed load elsewhere in bench/. All are in effect at once and end within a day; one in ten of the denies
and limits does not name its source, so that it stands on every edge.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from random import Random
from time import process_time

from bench.shapes import MIXED, group
from ovspane.config import NetworkSettings
from ovspane.lang.replies import Code
from ovspane.lang.statements import Ask, Cancel, Kind, Statement, Time, TimeKind
from ovspane.network.hosts import HostLimits
from ovspane.network.model import Bridge, LinkKey, NetworkDelta, Origin, Port, PortId
from ovspane.network.topology import Network
from ovspane.packets.flowgroup import ALL
from ovspane.placement.link_capacity import LinkCapacity
from ovspane.placement.network_view import snapshot
from ovspane.placement.pipeline import Pipeline
from ovspane.placement.routes import Routes
from ovspane.placement.routing import Routing
from ovspane.placement.rule_placement import RulePlacement
from ovspane.policy.model.tree import ROOT
from ovspane.policy.runtime import Runtime
from ovspane.policy.state.authority import Grant, Right
from ovspane.policy.state.capacity import NetworkCapacity
from ovspane.policy.state.shares import ADMINISTRATOR, Privileges, Share
from ovspane.policy.state.state import Value
from ovspane.switch.desired import DesiredState

SPEED = 10_000_000_000
TENANTS = 20
#: how many paths are tried for a reservation: the configuration's default
PATHS = NetworkSettings().paths
#: rates that are asked for (bit/s): with 10 000 requests about a third of what hosts' ports have
RATES = tuple(rate * 1_000_000 for rate in (10, 20, 50, 100, 200, 500))
HOUR, DAY = 3_600_000, 86_400_000
#: ms that pass between two changes of the network: hosts that move too often are held where they are
PAUSE = 60_000
TENANT = Privileges(allow=True, deny=True, reserve_max=10**13, ratelimit_min=0, tb_capacity=None, tb_fill=None)


@dataclass(frozen=True, slots=True)
class FatTree:
    """The wires of one: links as pairs of ports, and the ports for hosts."""

    k: int
    links: tuple[LinkKey, ...]
    edges: tuple[PortId, ...]

    @staticmethod
    def of(k: int) -> FatTree:
        """`k`: ports of a switch, even."""
        half = k // 2
        links: list[LinkKey] = []
        edges: list[PortId] = []
        for pod in range(k):
            for i in range(half):
                for j in range(half):
                    links.append((PortId(f"edge{pod}.{i}", f"up{j}"), PortId(f"agg{pod}.{j}", f"down{i}")))
                    links.append((PortId(f"agg{pod}.{i}", f"up{j}"), PortId(f"core{i * half + j}", f"pod{pod}")))
                    edges.append(PortId(f"edge{pod}.{i}", f"host{j}"))
        return FatTree(k, tuple(links), tuple(edges))

    @property
    def bridges(self) -> list[str]:
        """The switches' names."""
        return sorted({end.bridge for link in self.links for end in link})

    def fill(self, network: Network) -> None:
        """Tell a network of the switches and wires."""
        numbers: dict[str, int] = {}
        with network.change():
            for name in self.bridges:
                network.see_bridge(Bridge(name))
            for port in (*(end for link in self.links for end in link), *self.edges):
                numbers[port.bridge] = numbers.get(port.bridge, 0) + 1
                network.see_port(Port(port, numbers[port.bridge], speed=SPEED))
            for a, b in self.links:
                network.see_link(a, b, "veth", Origin.LOCAL, 0)


def mac(host: int) -> str:
    """The MAC address of a host by number."""
    return "02:" + ":".join(f"{host >> shift & 255:02x}" for shift in (32, 24, 16, 8, 0))


def address(host: int) -> int:
    """The IPv4 address of a host by number, as an integer."""
    return (10 << 24) + 1 + host


def _text(number: int) -> str:
    return ".".join(str(number >> shift & 255) for shift in (24, 16, 8, 0))


class Asks:
    """Statements between hosts, without end."""

    def __init__(self, hosts: int, seed: int = 1) -> None:
        self._hosts = hosts
        self._random = Random(seed)

    def __iter__(self) -> Iterator[Ask]:
        return self

    def __next__(self) -> Ask:
        return self.of(self._random.choices([kind for kind, _ in MIXED], [weight for _, weight in MIXED])[0])

    def of(self, kind: Kind) -> Ask:
        """One of a kind, from now on."""
        random = self._random
        source, sink = random.sample(range(self._hosts), 2)
        vague = kind in (Kind.DENY, Kind.RATELIMIT) and random.random() < 0.1
        flowgroup = group(
            None if vague else (address(source), 32),
            (address(sink), 32),
            6,
            None,
            random.choice((22, 80, 443, 8080, 9000, None)),
        )
        rate = random.choice(RATES) if kind in (Kind.RESERVE, Kind.RATELIMIT) else 0
        end = Time(TimeKind.RELATIVE, random.randrange(HOUR, DAY))
        return Ask(kind, flowgroup, f"tenant{source % TENANTS}", rate, end=end)


class Simulation:
    """One daemon's pure rooms over a fat-tree. `paths`: how many are tried for a reservation (`[network] paths`), 0:
    they are not steered. `bridges`: the daemon's own, for which plans are kept (all). `now` is the simulated clock
    (ms)."""

    def __init__(self, tree: FatTree, paths: int = PATHS, bridges: Sequence[str] = ()) -> None:
        self.tree = tree
        self.bridges = list(bridges) or tree.bridges
        self._paths = paths
        self._routes: dict[int, Routes] = {}
        #: how many reservations had other routes when that was looked at last
        self.rerouted = 0
        self.now = DAY
        self.network = Network(HostLimits(hosts=1 << 24))
        tree.fill(self.network)
        self.room = self._new_room()
        self.runtime = Runtime(self._shares(), capacity=self.room)
        self.desired = DesiredState(Pipeline(), conjunction=True, placement=self._new_spread())
        self._runner = asyncio.Runner()
        self.desired.move(snapshot(self.network))
        self._run(self.desired.apply_changes)
        self._runner.run(self.desired.follow(self.bridges))
        self.network.listen(self._hear)

    def close(self) -> None:
        """End its event loop."""
        self._runner.close()

    @staticmethod
    def _shares() -> list[Value]:
        shares = [Share(f"tenant{number}", ROOT, ALL, TENANT, ADMINISTRATOR) for number in range(TENANTS)]
        return [*shares, *(Grant(share.name, ADMINISTRATOR, ADMINISTRATOR, Right.MADE) for share in shares)]

    def _new_room(self) -> LinkCapacity:
        room = LinkCapacity(Routing(most=self._paths))
        room.notify(snapshot(self.network))
        room.mark_network_complete()
        return room

    def _new_spread(self) -> RulePlacement:
        return RulePlacement(Routing(most=self._paths))

    def _steer(self) -> None:
        """Routes that the room gave to reservations go to placement."""
        routes = self.room.take_steering()
        self.rerouted = len(routes)
        self._routes |= routes
        self.desired.steer(routes)

    def _hear(self, deltas: tuple[NetworkDelta, ...]) -> None:
        self.room.notify(deltas)
        self.desired.move(deltas)

    def _run(self, work: Callable[[], object]) -> None:
        self._runner.run(work())  # type: ignore[arg-type]

    # --- statements

    def ask(self, statement: Statement) -> bool:
        """Judge a statement and take it in; whether it was accepted. The switches' plans wait for `settle`."""
        return ask(self.runtime, statement, self.now)

    def settle(self) -> None:
        """Compile what was accepted."""
        settled = self.runtime.settle(self.now)
        self._steer()
        self.desired.change(settled.delta, self.runtime.compiler.stages)

    def place(self) -> None:
        """Bring each bridge's plan to the table and the network of now."""
        self._run(self.desired.apply_changes)

    def load(self, asks: Asks, count: int, batch: int = 200) -> int:
        """Ask that many statements; how many were accepted."""
        accepted = 0
        for number in range(count):
            accepted += self.ask(next(asks))
            if number % batch == batch - 1 or number == count - 1:
                self.settle()
                self.place()
        return accepted

    def cancel(self, number: int) -> bool:
        """Cancel a request; whether that was accepted."""
        return self.ask(Cancel(number))

    # --- the network

    def add_hosts(self, count: int) -> None:
        """Each port for hosts gets its part."""
        for host in range(count):
            self.put_host(host, self.tree.edges[host % len(self.tree.edges)])

    def put_host(self, host: int, port: PortId) -> None:
        """It is there now, wherever it was."""
        self.network.see_host(mac(host), port, self.now, addresses=[_text(address(host))])

    def set_links(self, links: Iterable[LinkKey], up: bool) -> None:
        """Their ports go down, or come up again, at one time."""
        with self.network.change():
            for end in chain.from_iterable(links):
                self.network.see_port(replace(self.network.ports[end], up=up))

    def follow_room(self) -> dict[int, str]:
        """Bring the links' room to the network of now; which reservations it cannot hold."""
        found = self.room.find_unsatisfied(self.now)
        self._steer()
        return found

    def follow(self, bridges: Sequence[str]) -> None:
        """The daemon has these switches now."""
        self.bridges = list(bridges)
        self._runner.run(self.desired.follow(self.bridges))

    # --- the same from scratch

    def room_anew(self) -> LinkCapacity:
        """All reservations booked on links again."""
        room = self._new_room()
        for request in self.runtime.state.requests.values():
            if request.kind is Kind.RESERVE:
                room.put(request, self.runtime.state.locations)
        return room

    def desired_anew(self) -> DesiredState:
        """The whole table placed again."""
        desired = DesiredState(Pipeline(), conjunction=True, placement=self._new_spread())
        desired.move(snapshot(self.network))
        routes = {slot: some for slot, some in self._routes.items() if some}
        desired.reset(tuple(self.runtime.compiler.table.rules.values()), self.runtime.compiler.stages, routes)
        self._run(desired.apply_changes)
        self._runner.run(desired.follow(self.bridges))
        return desired

    def runtime_anew(self, room: NetworkCapacity | None = None) -> Runtime:
        """The same state in another runtime."""
        runtime = Runtime(self.runtime.state.values(), capacity=room)
        runtime.settle(self.now, quiet=True)
        return runtime


def ask(runtime: Runtime, statement: Statement, now: int) -> bool:
    """Judge a statement and take it in, but for compiling; whether it was accepted."""
    outcome = runtime.execute(ADMINISTRATOR, statement, now)
    runtime.apply(outcome.changes)
    return outcome.reply.code is Code.OK


def timed(work: Callable[[], object]) -> float:
    """Milliseconds of processor time: nothing here waits for anything, so it is the time that it takes on a machine
    without other work."""
    start = process_time()
    work()
    return (process_time() - start) * 1000
