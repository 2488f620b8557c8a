"""The second witness: `ofproto/trace` of the same packet, over ovs-vswitchd's control socket, and what it says of our
tables.

A trace translates the packet by the very tables that packets meet and sends nothing. It tells what a caught packet
cannot: which flow decided, the queue (which lives in the priority of the packet's buffer) and the meter. Source:
ovs-vswitchd(8), ofproto/trace; the lines are `TABLE. MATCH, priority N, cookie 0xC` with the actions indented below.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ovspane.host.unixctl import ControlSocket, ControlUnavailable
from ovspane.placement.flow_rules import COOKIE_MASK, COOKIE_TAG

#: ovs-vswitchd's control socket is not there or refuses, or says no trace; the text says which
TraceUnavailable = ControlUnavailable


@dataclass(frozen=True, slots=True)
class Step:
    """One flow that the packet met, and its actions as Open vSwitch writes them."""

    table: int
    priority: int
    cookie: int
    actions: tuple[str, ...]

    def __str__(self) -> str:
        return f"table={self.table},priority={self.priority},cookie={self.cookie:#x} actions={','.join(self.actions)}"


@dataclass(frozen=True, slots=True)
class PacketTrace:
    """A packet's way through our tables. `left`: it came back to table 0 with the mark. `out`: the datapath's
    actions for the whole bridge, ports by name."""

    steps: tuple[Step, ...]
    left: bool
    out: str

    @property
    def queue(self) -> int | None:
        """The queue that it is put in by our tables."""
        queue = None
        for action in self._actions():
            if action.startswith("set_queue:"):
                queue = int(action.removeprefix("set_queue:"))
            elif action == "pop_queue":
                queue = None
        return queue

    @property
    def meters(self) -> tuple[int, ...]:
        """The meters that it goes through, in order."""
        return tuple(int(action.removeprefix("meter:")) for action in self._actions() if action.startswith("meter:"))

    @property
    def steered(self) -> str | None:
        """The port (name or number) by which a flow of ours sends it out, past what else the bridge does. Such a
        packet would reach somebody: it must not be sent as a probe."""
        last = self.steps[-1] if self.steps else None
        return last.actions[1].removeprefix("output:").strip('"') if last is not None and _steers(last) else None

    @property
    def foreign(self) -> Step | None:
        """The first flow that does what no flow of ours does (flood, say); such a packet must not be sent as a
        probe."""
        return next(
            (step for step in self.steps if not (_steers(step) or all(map(_OURS.fullmatch, step.actions)))), None
        )

    def _actions(self) -> list[str]:
        return [action for step in self.steps for action in step.actions]


def _steers(step: Step) -> bool:
    """It is a flow of a reservation that has a path of its own."""
    queue, output = step.actions if len(step.actions) == 2 else ("", "")
    return step.cookie & COOKIE_MASK == COOKIE_TAG and queue.startswith("set_queue:") and output.startswith("output:")


_RULE = re.compile(r" *(\d+)\. (?:(.*), )?priority (\d+)(?:, cookie (0x[0-9a-f]+))?$")
_NO_RULE = re.compile(r" *(\d+)\. No match\.")
_MARKED = re.compile(r"(?:load:0x1->NXM_NX_REG15\[0\]|set_field:0x1/0x1->reg15)")
_OURS = re.compile(
    r"goto_table:\d+|meter:\d+|set_queue:\d+|pop_queue|drop|resubmit\(,\d+\)|load:0x1->NXM_NX_REG15\[[01]\]"
    r"|set_field:0x([12])/0x\1->reg15|load:0x[0-9a-f]+->NXM_NX_REG12\[0\.\.11\]|set_field:0x[0-9a-f]+/0xfff->reg12"
)


def read_trace(text: str) -> PacketTrace:
    """The part of a trace that lies in our tables. Raises TraceUnavailable for a text that is no trace."""
    head, found, tail = text.partition("Datapath actions: ")
    if not found:
        raise TraceUnavailable(f"ofproto/trace said: {text.strip()[-200:]}")
    steps: list[tuple[int, int, int, list[str]]] = []
    marked = left = False
    for line in head.splitlines():
        if line.startswith("Final flow:"):
            break
        if rule := _RULE.match(line):
            if marked and int(rule[1]) == 0:
                left = True
                break
            steps.append((int(rule[1]), int(rule[3]), int(rule[4] or "0", 16), []))
        elif missed := _NO_RULE.match(line):
            if marked and int(missed[1]) == 0:  # the bridge itself has no flow for it
                left = True
                break
            steps.append((int(missed[1]), -1, 0, ["drop"]))
        elif steps and line.startswith("    ") and not line.lstrip().startswith(("->", ">>")):
            steps[-1][3].append(line.strip())
            marked = marked or _MARKED.fullmatch(line.strip()) is not None
    ways = tuple(Step(table, priority, cookie, tuple(actions)) for table, priority, cookie, actions in steps)
    return PacketTrace(ways, left, tail.splitlines()[0].strip() if tail else "")


def trace(control: ControlSocket, bridge: str, flow: str, in_port: int) -> PacketTrace:
    """The way of a packet, given as a flow, that comes in by a port. Raises TraceUnavailable.

    With a token in register 14, as probes have: flows of discovery (discovery.flows) leave those alone.

    Not given as bytes: then a trace has side effects, the bridge would learn its addresses (ovs-vswitchd(8),
    ofproto/trace).
    """
    return read_trace(control.call("ofproto/trace", "--names", bridge, f"in_port={in_port},reg14=1,{flow}"))
