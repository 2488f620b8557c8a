"""docs/pipeline.md, made of what a daemon really put on its bridges (tests/support/pipeline_scene.py).

    .venv/bin/python -m tests.support.pipeline_page         # writes docs/pipeline.md anew

tests/switch/docs/test_pipeline_page.py fails where the committed page differs. Each dumped flow must be of just one
`Kind` of KINDS, which says why it is there: a flow that nobody has explained is an error, and so is an explanation
whose flow has gone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

from tests.support.pipeline_scene import (
    ONE_SETTINGS,
    ONE_STATEMENTS,
    TWO_SETTINGS,
    TWO_STATEMENTS,
    Scene,
    one_bridge,
    table,
    two_bridges,
)

PAGE = Path(__file__).parents[2] / "docs/pipeline.md"
OURS, TOPOLOGY, PROBE = "cookie=0x70616e65", "cookie=0x70746f70", "cookie=0x70707262"
#: the two scenes: which bridge a flow was dumped on
ONE, TWO = "br0", "br1"


@dataclass(frozen=True, slots=True)
class Kind:
    """Flows that are there for one reason: those whose dumped line has `pattern`, in one of `tables`, of one scene."""

    tables: range
    pattern: str
    why: str
    scene: str = ONE

    def covers(self, line: str) -> bool:
        return table(line) in self.tables and re.search(self.pattern, line) is not None


def _only(number: int) -> range:
    return range(number, number + 1)


ACCESS, CROSSING, LIMIT, QUEUE, EXIT = range(100, 140), _only(139), range(140, 172), _only(172), _only(174)

KINDS = (
    Kind(
        _only(0),
        rf"{OURS}00000000, priority=65535",
        "**Entry.** A packet that has not been through our tables (bit 0 of register 15, our mark, is clear) goes "
        "to the first access table. The highest priority there is, so no flow of the bridge decides before the "
        "policy did.",
    ),
    Kind(
        _only(0),
        PROBE,
        "**The catch of `ovspane probe`**, there only while a probe runs. A probe enters with a random token in "
        "register 14; when it comes back with our mark set this flow sends it to the prober instead of to a host. "
        "No packet from a wire can have the token. It ends by itself after 30 seconds.",
    ),
    Kind(
        _only(0),
        r"^priority=0 actions=NORMAL",
        "**The bridge's own flows**, whatever they are. They see the packet after ours, exactly as without us.",
    ),
    Kind(
        (0, 100),
        rf"{TOPOLOGY}.*dl_type=0x88(b5|cc)",
        "**Our probes** of links (sent to a group address of our own, so nobody's LLDP is touched) come to discovery "
        "and go no further; the second EtherType is that of earlier daemons. A meter bounds how many we get. They are "
        "in table 0, too, so that a bridge hands no probe on while the entry is not there yet: it would show a link "
        "where none is.",
    ),
    Kind(
        _only(100),
        rf"{OURS}00000000.*priority=65535,ct_state=-trk,.*nw_frag=yes actions=ct",
        "**Fragments are gathered.** Only the first fragment of a datagram has ports. So where a request names any, "
        "connection tracking sees fragments before the policy does; it lets them go when all of a datagram are there, "
        "and nothing is committed. The kernel gives them back as one packet.",
    ),
    Kind(
        _only(100),
        rf"{OURS}00000000.*priority=65534,.*nw_frag=yes actions=drop",
        "**Fragments that nobody can know the ports of** (userspace datapath): connection tracking finds the datagram "
        "invalid, or does not read the ports of its protocol.",
    ),
    Kind(
        ACCESS,
        rf"{OURS}(?!0{{8}}).*ct_state=-inv\+trk.*nw_frag=later",
        "**Later fragments** (userspace datapath) have no ports. They pass where their datagram may, which is decided "
        "by its first fragment, without which nobody can put it together.",
    ),
    Kind(
        ACCESS,
        rf"{OURS}(?!0{{8}}).*ct_state=-inv\+trk.*nw_frag=first",
        "**First fragments** (userspace datapath): the same as the flow of whole packets, by the ports that connection "
        "tracking read.",
    ),
    Kind(
        _only(100),
        rf"{OURS}00000000.*priority=65520,.*in_port=.*actions=load:.*REG12",
        "**Ports that have a VLAN**: what comes in by an access port, or one with a native VLAN, without a tag or with "
        "a priority tag, is in the port's VLAN. That is kept in the low twelve bits of register 12, while any request "
        "names VLANs; the packet stays as it is.",
    ),
    Kind(
        ACCESS,
        rf"{OURS}(?!0{{8}})(?!.*nw_frag=).*reg12=",
        "**Packets that their port put into a VLAN**: the same as the flow of those that have its tag.",
    ),
    Kind(
        ACCESS,
        rf"{OURS}(?!0{{8}})(?!.*conj_id)(?!.*nw_frag=)(?!.*reg12=).* actions=drop",
        "**Denies.** The low half of the cookie is the request. The priority is 2·depth+1, depth being that of the "
        "share in the tree: what stands deeper decides.",
    ),
    Kind(
        ACCESS,
        rf"{OURS}(?!0{{8}})(?!.*nw_frag=).*(conj_id|actions=conjunction)",
        "**Clauses of a conjunction.** A deny for 3 hosts × 3 ports is 9 matches; as `conjunction()` it is 3 + 3 "
        "clauses and one flow that acts, the one with `conj_id`. A clause decides nothing by itself.",
    ),
    Kind(
        ACCESS,
        rf"{OURS}(?!0{{8}})(?!.*nw_frag=).*actions=goto_table",
        "**Exceptions.** An allow that stands below a deny which it overlaps goes on to the next table, at priority "
        "2·level+2: just above that deny. It stands only in the stages where there is such a deny, so the deny of "
        "the share beside, in the next stage, still drops its packets.",
    ),
    Kind(
        ACCESS,
        rf"{OURS}00000000,(?! table=139).*priority=0 actions=goto_table",
        "**Defaults.** What nobody denies goes on to the next table; the table after the last stage in use sends it "
        "to the limits, past the tables that are not in use. With `default_deny` a drop stands above them.",
    ),
    Kind(
        CROSSING,
        rf"{OURS}00000000, table=139, priority=[12],",
        "**First and second crossings.** A packet that a host routes crosses the bridge twice. What has the address of "
        "a host that is known, and comes in by another port than towards that host, crosses it for the second time: "
        "bit 1 of register 15 says so. Only of addresses that a limit may meet.",
        TWO,
    ),
    Kind(
        CROSSING,
        rf"{OURS}00000000, table=139, priority=0 actions=goto_table",
        "**The way there**, while any of these flows is there: the table after the last access stage leads there, not "
        "to the limits.",
        TWO,
    ),
    Kind(
        LIMIT,
        rf"{OURS}(?!0{{8}}).*reg15=0x2/0x2.*actions=meter",
        "**Twins.** A second crossing goes through a meter of the same rate instead, whose number is that of the "
        "limit's own and 65536. So each packet passes a meter at each crossing, and no meter counts it twice.",
        TWO,
    ),
    Kind(
        LIMIT,
        rf"{OURS}(?!0{{8}})(?!.*nw_frag=)(?!.*reg15=).*actions=meter",
        "**Limits.** A packet passes each limit that matches it, so limits that share packets stand in different "
        "tables, the narrower first: what it drops does not count in the wider one. Flows of one table share no "
        "packets; the priority, higher for the narrower, matters only while flows move. The meter's number is "
        "`meter_base` and the request's slot.",
    ),
    Kind(
        LIMIT,
        rf"{OURS}(?!0{{8}})(?!.*reg15=).*nw_frag=(first|later)",
        "**Fragments that are limited** (userspace datapath): the first by its ports, and all later ones between these "
        "addresses, so that no datagram goes past its meter in part. Later ones of other ports share it; of several "
        "limits of one table they meet the lowest.",
    ),
    Kind(LIMIT, rf"{OURS}00000000.*priority=0 actions=goto_table", "**Defaults**: no limit of this stage."),
    Kind(
        QUEUE,
        rf"{OURS}(?!0{{8}})(?!.*nw_frag=).*actions=set_queue:\d+,goto_table",
        "**Guarantees.** The highest rate has the highest priority, since a packet's guarantee is the maximum of "
        "all that match it. The queue's number is the request's slot, the same on every port.",
    ),
    Kind(
        QUEUE,
        rf"{OURS}(?!0{{8}}).*nw_frag=(first|later)",
        "**Fragments that are guaranteed** (userspace datapath, which has no queues).",
    ),
    Kind(QUEUE, rf"{OURS}00000000.*priority=0 actions=goto_table:174", "**Default**: the port's default class."),
    Kind(
        EXIT,
        rf"{TOPOLOGY}.*priority=2,",
        "**Copies for discovery** of what hosts say of themselves: ARP, DHCP requests, IPv6 neighbour discovery to "
        "groups. The copy passes a meter of its own (inside `controller`), so when there are too many, copies are "
        "lost and never packets; the packet goes on as by the flow below.",
    ),
    Kind(
        EXIT,
        rf"{OURS}00000000.*priority=4,ct_state=\+trk actions=ct_clear",
        "**Exit of what was tracked.** The bridge's own flows see it as if it had not been.",
    ),
    Kind(
        EXIT,
        rf"{OURS}00000000.*priority=0 actions=(set_field|load)",
        "**Exit.** Sets the mark and gives the packet back to table 0, where the entry flow no longer matches it "
        "and the bridge's own flows do.",
    ),
    Kind(
        LIMIT,
        rf"{OURS}00000000.*priority=65535,in_port",
        "**Limited already.** What comes in from another bridge of ours passed its limit there, so that a limit "
        "counts once.",
        TWO,
    ),
    Kind(
        QUEUE,
        rf"{OURS}(?!0{{8}})(?!.*nw_frag=).*actions=set_queue:\d+,output",
        "**A steered reservation.** Queue and path are one decision: the packet leaves by the port of the path on "
        "which room was booked, past everything else that the bridge does.",
        TWO,
    ),
    Kind(
        EXIT,
        rf"{OURS}00000000.*priority=65535,in_port",
        "**Off the flood tree.** What comes in by this port and is not steered goes no further, nor is anything "
        "learnt of it: packets to an address that was learnt off the tree could go in a ring.",
        TWO,
    ),
    Kind(
        EXIT,
        rf"{TOPOLOGY}.*priority=3,.*in_port",
        "**No copies from links.** What comes in from another bridge of ours was copied there.",
        TWO,
    ),
)

INTRODUCTION = """\
# The pipeline, flow by flow

Each flow below is a real one: a daemon put it on a bridge of a real ovs-vswitchd (dummy datapath), and `ovs-ofctl -O
OpenFlow14 --no-names --no-stats dump-flows` printed it. Do not edit this page. It is made by

    .venv/bin/python -m tests.support.pipeline_page

and tests/switch/docs/test_pipeline_page.py fails where it no longer says what the daemon does. The words are in
tests/support/pipeline_page.py. Replaced by words is only what differs from run to run: TOKEN, ID.

The flows are planned in ovspane/placement/pipeline.py and ovspane/policy/compiler/; discovery's are in
ovspane/discovery/flows.py and the probe's catch in ovspane/audit/probe/messages.py. What is ours and how it is told
from what is not: docs/design/switch.md.

| table | stage | what it does | priorities |
| --- | --- | --- | --- |
| 0 | entry | packets without our mark (`reg15[0]`) go to the first access table | 65535 |
| 100 … 139 | access | drop, or go on to the next table; one stage where siblings are disjoint, else as many as are \
needed | deny 2·depth+1, exception 2·level+2 |
| 139 | crossing | set `reg15[1]` or not: it is a second crossing (if a limit needs that, and no 40th access stage the \
table) | 2 first, 1 second |
| 140 … 171 | limit | through `meter:N`, through its twin, or neither, and on to the next table | narrowest highest |
| 172 | queue | `set_queue:N` or not; a steered reservation leaves by its port | highest rate highest |
| 173 | path | empty: kept for `waypoint` and `avoid` | |
| 174 | exit | set the mark and go back to table 0; or drop, off the flood tree | |

The numbers are those of `first_table = 100` and `meter_base = 1000000`, the defaults.
"""

ONE_BRIDGE = """
## One bridge

The bridge `br0` has three ports, the third of them an access port of VLAN 10, and one flow of its own, `priority=0
actions=NORMAL`. The settings:
"""

HIDDEN = """
Request 2 has no flow: request 1 covers it at the same priority, and the setting `hiding` keeps such flows off the
bridge. Reservations are `degraded: unenforced` since only the kernel's datapath has queues; their flows are the same.
"""

METERS = """
### Meters

One for each limit, with a burst of half a second; and two of discovery, in packets a second, for copies and for probes.
"""

QUEUES = """
### Queues

Rows of the Open_vSwitch database, by `ovs-vsctl`. Each port that can have queues has each of them (here the two whose
speed is known), and a default class, number 0, that lends and borrows. Rates in bit/s.
"""

TWO_BRIDGES = """
## Two bridges with one link too many

`br0` and `br1` are joined by two patch cables (ports 8 and 9), each has one host at port 1, and rules stand where
packets pass (`placement = "paths"`). The settings:
"""

ON_THE_PATH = """
What differs from one bridge, in the flows of both (the limit itself stands on `br0` only, where its packets enter; the
rest is as above):
"""


def _block(lines: Sequence[str], kind: str = "") -> str:
    return f"\n```{kind}\n" + "\n".join(lines) + "\n```\n"


def explained(lines: Sequence[str], kinds: Sequence[Kind]) -> Iterator[str]:
    """Each kind's reason and flows, in the order of `kinds`. Raises ValueError for one without flows."""
    for kind in kinds:
        if not (found := [line for line in lines if kind.covers(line)]):
            raise ValueError(f"docs/pipeline.md explains flows that are no longer there: {kind.pattern}")
        yield f"\n{fill(kind.why, 120)}\n{_block(found)}"


def check_explained(lines: Sequence[str]) -> None:
    """Raises ValueError unless each flow is explained once."""
    for line in lines:
        if (count := sum(kind.covers(line) for kind in KINDS)) != 1:
            raise ValueError(f"{count} of KINDS in tests/support/pipeline_page.py explain this flow: {line}")


def _tables(scene: Scene) -> Iterator[str]:
    for title, tables in (
        ("Table 0: entry", _only(0)),
        ("Tables 100 to 139: access", ACCESS),
        ("Tables 140 to 171: limit", LIMIT),
        ("Table 172: queue", QUEUE),
        ("Table 174: exit", EXIT),
    ):
        yield f"\n### {title}\n"
        lines = [line for line in scene.flows["br0"] if table(line) in tables]
        yield from explained(lines, [k for k in KINDS if k.scene == ONE and k.tables[0] in tables])


def _one(scene: Scene) -> Iterator[str]:
    check_explained(scene.flows["br0"])
    yield ONE_BRIDGE + _block(ONE_SETTINGS.splitlines(), "toml")
    yield "\nWhat root says:\n" + _block(ONE_STATEMENTS)
    yield "\nWhat `ListRequests` then answers, without times:\n" + _block(scene.requests) + HIDDEN
    yield from _tables(scene)
    yield METERS + _block(scene.meters)
    yield QUEUES + _block(scene.queues)


def _two(scene: Scene) -> Iterator[str]:
    lines = [f"{bridge}: {line}" for bridge in ("br0", "br1") for line in scene.flows[bridge]]
    check_explained([line for bridge in scene.flows.values() for line in bridge])
    yield TWO_BRIDGES + _block(TWO_SETTINGS.splitlines(), "toml")
    yield "\nWhat root says:\n" + _block(TWO_STATEMENTS)
    yield "\nWhat `ListRequests` then answers, without times:\n" + _block(scene.requests) + ON_THE_PATH
    yield from explained(lines, [kind for kind in KINDS if kind.scene == TWO])


def page() -> str:
    """The whole page. Raises ValueError where a flow is not explained, or an explanation has no flow."""
    return INTRODUCTION + "".join(_one(one_bridge())) + "".join(_two(two_bridges()))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
