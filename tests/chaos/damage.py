"""The faults that others make: what they do to the switch behind the daemon's back, with the usual tools."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.chaos.faults import PROCESSES, Faults
from tests.chaos.machine import Machine

DAMAGE = Faults()


def _ignore(output: str) -> None:
    """A tool's output."""


def _ofctl(*lines: tuple[str, ...]) -> Callable[[Machine, random.Random], None]:
    def inject(machine: Machine, dice: random.Random) -> None:
        bridge = dice.choice(machine.bridges)
        for command, *words in lines:
            machine.ovs.ofctl(command, bridge, *words)
        if lines[0][0].startswith("del-"):
            machine.add_foreign()

    return inject


DAMAGE.add("delete all flows")(_ofctl(("del-flows",)))
DAMAGE.add("delete flows of a table")(_ofctl(("del-flows", "table=100"), ("del-flows", "table=140")))
DAMAGE.add("delete the entry")(_ofctl(("del-flows", "table=0")))
DAMAGE.add("change actions")(_ofctl(("mod-flows", "table=100,udp,actions=output:1")))
DAMAGE.add("delete all meters")(_ofctl(("del-meters",)))
DAMAGE.add("false flows under our cookie")(
    _ofctl(
        ("add-flow", "table=100,cookie=0x70616e6500ffffff,priority=9000,udp,actions=drop"),
        ("add-flow", "table=0,cookie=0x70616e6500ffffff,priority=65535,reg15=0/1,actions=drop"),
        ("add-flow", "table=172,cookie=0x70616e6500ffffff,priority=9000,tcp,actions=set_queue:999,goto_table:174"),
    )
)


@DAMAGE.add("change meters")
def change_meters(machine: Machine, dice: random.Random) -> None:
    """Rates of ours are changed, and a meter of nobody is put in our range."""
    bridge = dice.choice(machine.bridges)
    for item in machine.ovs.ofctl("dump-meters", bridge).split("meter=")[1:]:
        number, unit, *_ = item.split()
        if int(number) > 1_000_000 and unit == "kbps" and dice.random() < 0.5:
            machine.ovs.ofctl("mod-meter", bridge, f"meter={number},kbps,band=type=drop,rate=3")


@DAMAGE.add("flows of others in our tables")
def foreign_flows(machine: Machine, dice: random.Random) -> Callable[[], None]:
    """They come before ours, and may not be touched: requests are degraded until their owner takes them away."""
    bridge = dice.choice(machine.bridges)
    for line in (
        "table=100,cookie=0x5,priority=65000,tcp,actions=drop",
        "table=0,cookie=0x5,priority=65535,actions=NORMAL",
    ):
        machine.ovs.ofctl("add-flow", bridge, line)
    return lambda: _try(machine, lambda: machine.ovs.ofctl("del-flows", bridge, "cookie=0x5/-1"))


def _try(machine: Machine, work: Callable[[], object]) -> None:
    """What the tool says if nobody is there any more is no matter: a restart has taken it away as well."""
    if "vswitchd" not in machine.dead:
        work()


@DAMAGE.add("delete queues")
def delete_queues(machine: Machine, dice: random.Random) -> None:
    """Of all ports, and the rows with them."""
    ports = machine.ovs.vsctl("--bare", "--columns=name", "find", "port", "qos!=[]").split()
    words = [word for port in ports for word in ("--", "clear", "port", port, "qos")]
    machine.ovs.vsctl(*words, "--", "--all", "destroy", "qos", "--", "--all", "destroy", "queue")


@DAMAGE.add("change queues")
def change_queues(machine: Machine, dice: random.Random) -> None:
    """Some rows get another rate."""
    rows = machine.ovs.vsctl("--bare", "--columns=_uuid", "find", "queue", "external_ids:ovspane=1").split()
    words = [
        word
        for row in dice.sample(rows, min(3, len(rows)))
        for word in ("--", "set", "queue", row, "other_config:min-rate=12345")
    ]
    if words:
        machine.ovs.vsctl(*words)


@DAMAGE.add("ports down and up")
def flap(machine: Machine, dice: random.Random) -> Callable[[], None]:
    """By OpenFlow, as a device that flaps."""
    bridge = dice.choice(machine.bridges)
    port = f"{bridge}p{dice.choice((1, 2, 3))}"
    for state in ("down", "up", "down"):
        machine.ovs.run("ovs-ofctl", "-O", "OpenFlow14", "mod-port", bridge, port, state)
    return lambda: _ignore(machine.ovs.run("ovs-ofctl", "-O", "OpenFlow14", "mod-port", bridge, port, "up"))


@DAMAGE.add("port made anew")
def port_anew(machine: Machine, dice: random.Random) -> None:
    """A host's port is taken away and added again, in one go or in two."""
    bridge, number = dice.choice(machine.bridges), 1
    words = ["del-port", bridge, f"{bridge}p{number}"]
    if dice.random() < 0.5:
        machine.ovs.vsctl(*words)
        words = []
    machine.ovs.vsctl(*words, *machine.port_words(bridge, number))


@DAMAGE.add("bridge made anew")
def bridge_anew(machine: Machine, dice: random.Random) -> None:
    """All of it: ports, flows, meters, queues."""
    bridge = dice.choice(machine.bridges)
    machine.ovs.vsctl("del-br", bridge)
    machine.make_bridge(bridge)
    machine.add_foreign()


@DAMAGE.add("delete a qdisc", kernel=True)
def delete_qdisc(machine: Machine, dice: random.Random) -> None:
    """The root qdisc of a port, which Open vSwitch never makes again by itself."""
    machine.ovs.run("tc", "qdisc", "del", "dev", f"br0p{dice.choice((1, 2, 3))}", "root")


@DAMAGE.add("change HTB classes", kernel=True)
def change_classes(machine: Machine, dice: random.Random) -> None:
    """One of a request gets another rate, and one of nobody comes beside it."""
    port = f"br0p{dice.choice((1, 2, 3))}"
    for word, minor in (("add", "eeee"), ("change", "2")):
        machine.ovs.run(
            "tc", "class", word, "dev", port, "parent", "1:fffe", "classid", f"1:{minor}", "htb", "rate", "7Mbit"
        )


ALL = {**PROCESSES.known, **DAMAGE.known}
