"""What must be so when a fault is over: two lists of what is not, what can never become right, and what may soon.

The switch is held against the ledger of the clients by the slow evaluator (policy/semantics.py): packets are traced
through the real tables; every flow, meter and queue of ours must be of a request that is in force.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import dataclass, field

from ovspane.audit.probe.frames import flow as as_flow
from ovspane.packets.fields import TCP, UDP
from ovspane.packets.match import ETH_IPV4, Packet
from ovspane.placement.pipeline import TWIN
from ovspane.policy.model.tree import PolicyTree
from ovspane.policy.semantics import evaluate, metered, passes
from tests.chaos.ledger import SHARES, Item, overcommitted
from tests.chaos.machine import HOST_PORTS, LOCATIONS, Machine

#: packets that are traced each time
PACKETS = 40
DESTINATIONS = (21, 22, 53, 80, 81, 88, 89, 443, 444, 999, 1000, 1023, 1024, 8080)
_METER = re.compile(r"^ +meter:(\d+)$", re.M)
_QUEUE = re.compile(r"^ +set_queue:(\d+)$", re.M)
_OURS = re.compile(r"cookie=0x70616e65([0-9a-f]{8}), table=(\d+),")


@dataclass(slots=True)
class Facts:
    """`wrong` can never become right; `not_yet` may."""

    wrong: list[str] = field(default_factory=list)
    not_yet: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not self.wrong and not self.not_yet


def look(machine: Machine, dice: random.Random) -> Facts:
    """All facts but those that `verify` proves. No client may be speaking."""
    facts = Facts()
    process = machine.daemon.process
    if process is not None and process.poll() is not None:
        facts.wrong.append(f"the daemon ended by itself with {process.returncode}:\n{machine.daemon.log[-2000:]}")
        machine.daemon.launch()
        return facts
    try:
        items = machine.items("ListRequests.")
        facts.wrong += machine.ledger.compare(items)
        facts.wrong += overcommitted(items)
        facts.not_yet += machine.ledger.late(items)
        facts.not_yet += schedules(machine, items)
    except (OSError, ValueError) as problem:
        facts.not_yet.append(f"no answer: {problem!r}")
        return facts
    facts.not_yet += [f"status: {item}" for item in items if not _settled(item)]
    if not facts.not_yet:
        facts.not_yet += switches(machine, machine.ledger.tree(items), dice)
    return facts


def _settled(item: Item) -> bool:
    return item["state"] not in ("pending", "degraded") or item.get("reason") == "unenforced"


def schedules(machine: Machine, items: list[Item]) -> list[str]:
    """What GetSchedule says of each share, and the sums over the list."""
    found = []
    for share in SHARES:
        held = [item for item in items if item["kind"] == "reserve" and str(item["share"]) in inside(share)]
        for part in machine.items(f"GetSchedule {share}."):
            start, end = str(part["from"]), str(part["to"])
            there = sum(int(item["rate"]) for item in held if str(item["from"]) <= start and start < str(item["to"]))
            if there != int(part["reserved"]):
                found.append(f"{share}: {part['reserved']} from {start} to {end}, and the requests sum up to {there}")
    return found


def inside(share: str) -> set[str]:
    """The share and those below it."""
    return {share} | {name for name, (parent, _) in SHARES.items() if parent == share}


def switches(machine: Machine, tree: PolicyTree, dice: random.Random) -> list[str]:
    """Where the switch differs from the policy."""
    found = []
    rates: dict[str, dict[int, int]] = {}
    for bridge in machine.bridges:
        flows = machine.ovs.ofctl("dump-flows", "--no-stats", bridge)
        named = {int(number, 16) for number, _ in _OURS.findall(flows)} - {0}
        if odd := named - tree.requests.keys():
            found.append(f"{bridge} has flows of {sorted(odd)}, which are not in force")
        if bridge == "br0" and "cookie=0x77" not in flows:
            found.append("somebody else's flow is gone")
        rates[bridge] = _meters(machine, bridge)
        wanted = _limits(tree)
        there = Counter(rate for number, rate in rates[bridge].items() if 1_000_000 < number < 1_000_000 + TWIN)
        if machine.layout == "flat" and there != wanted:
            found.append(f"{bridge} has meters {there - wanted} too many and {wanted - there} too few")
    queues = _queues(machine)
    if machine.datapath == "system" and not found:
        found += _classes(machine, queues)
    for _ in range(PACKETS):
        if not found:
            found += _packet(machine, tree, dice, rates, queues)
    return found


def _meters(machine: Machine, bridge: str) -> dict[int, int]:
    """Number -> bit/s, of those that count bits (discovery has others)."""
    text = machine.ovs.ofctl("dump-meters", bridge)
    return {int(n): 1000 * int(rate) for n, rate in re.findall(r"meter=(\d+) kbps.*\n.*rate=(\d+)", text)}


def _limits(tree: PolicyTree) -> Counter[int]:
    """The rates of the meters that there must be: of limits on the same packets the lowest."""
    lowest: dict[object, int] = {}
    for request in tree.requests.values():
        if request.verdict.limits and (group := request.flowgroup.resolve(LOCATIONS)) is not None:
            lowest[group] = min(request.rate, lowest.get(group, request.rate))
    return Counter(lowest.values())


def _queues(machine: Machine) -> dict[str, dict[int, int]]:
    """Port -> queue -> bit/s."""
    table = machine.ovs.vsctl(
        "--bare", "--format=csv", "--no-headings", "--columns=_uuid,other_config", "list", "queue"
    )
    rate = {row: int(value) for row, value in re.findall(r"^([0-9a-f-]{36}),.*min-rate=(\d+)", table, re.M)}
    ports = {}
    for port in {f"{bridge}p{number}" for bridge, number in HOST_PORTS[machine.layout].values()}:
        qos = machine.ovs.vsctl("--if-exists", "get", "port", port, "qos").strip()
        text = machine.ovs.vsctl("get", "qos", qos, "queues") if len(qos) > 2 else ""
        ports[port] = {int(n): rate.get(row, 0) for n, row in re.findall(r"(\d+)=([0-9a-f-]+)", text)}
    return ports


def _classes(machine: Machine, queues: dict[str, dict[int, int]]) -> list[str]:
    """Where the kernel has other HTB classes than the rows say; queue N is class 1:(N+1), and 1:fffe all of them."""
    found = []
    for port, rates in queues.items():
        text = machine.ovs.run("tc", "class", "show", "dev", port)
        there = {
            int(minor, 16) - 1: int(float(rate) * {"": 1, "K": 1e3, "M": 1e6, "G": 1e9}[unit])
            for minor, rate, unit in re.findall(r"class htb 1:(\w+) .*?rate ([\d.]+)([KMG]?)bit", text)
            if minor not in ("fffe", "1")
        }
        if there != {number: rate for number, rate in rates.items() if number}:
            found.append(f"{port} has the classes {there} in the kernel, and the rows say {rates}")
    return found


def _packet(
    machine: Machine,
    tree: PolicyTree,
    dice: random.Random,
    rates: dict[str, dict[int, int]],
    queues: dict[str, dict[int, int]],
) -> list[str]:
    """A packet from a host to another: its fate in the tables, and in the words of the policy."""
    source, target = dice.sample((1, 2, 3), 2)
    bridge, number = HOST_PORTS[machine.layout][source]
    packet = Packet(
        ETH_IPV4, 0x0A000000 | source, 0x0A000000 | target, dice.choice((TCP, UDP)), dice.randrange(1024, 60_000),
        dice.choice(DESTINATIONS), eth_src=0x020000000000 | source, eth_dst=0x020000000000 | target,
    )  # fmt: skip
    verdict = evaluate(tree, packet, LOCATIONS)
    text = machine.ovs.trace(bridge, f"in_port={number},{as_flow(packet)}")
    said = text.rsplit("Datapath actions: ", 1)[1].strip()
    if passes(verdict) == (said == "drop"):
        return [f"{packet} is to be {verdict}, and becomes {said}:\n{text}"]
    if said == "drop":
        return []
    met = sorted(rates[bridge].get(int(number), 0) for number in _METER.findall(text))
    wanted = sorted(limit.rate for limit in metered(tree, verdict, LOCATIONS))
    if met != wanted:
        return [f"{packet} is to meet limits of {wanted}, and meets {met}:\n{text}"]
    port = "{}p{}".format(*HOST_PORTS[machine.layout][target])
    given = {queues[port].get(int(number), 0) for number in _QUEUE.findall(text)}
    if given != ({verdict.guarantee} if verdict.guarantee else set()):
        return [f"{packet} is to have {verdict.guarantee}, and has {given} at {port}:\n{text}"]
    return []


def verified(machine: Machine) -> list[str]:
    """What `ovspane verify` says that is not right."""
    done = machine.daemon.run("verify", "--socket", str(machine.daemon.socket))
    return [] if done.returncode == 0 else [f"verify: exit {done.returncode}\n{done.stdout[-1500:]}{done.stderr}"]
