"""What became of a request: a value, and its text for people. Pure.

Who brings requests to the switch makes it, and the runtime where one cannot be compiled; `State.status` keeps it by
request; ListRequests and notices show it: `text` to people, `fields` to programs. Programs read values, never the words
of a text (tests/unit/policy/test_status.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

#: ports that a text names; `fields` names all
SHOWN: Final = 5


class Condition(Enum):
    """How a request stands."""

    WAITING = "waiting"  # it starts later
    ACTIVE = "active"  # in effect, and nothing is to be installed or nothing was heard of it yet
    PENDING = "pending"  # on its way to the switch
    INSTALLED = "installed"  # in effect on the switch
    DEGRADED = "degraded"  # not in effect, or not as was promised: `reasons` says why
    HIDDEN = "hidden"  # other requests decide all that it speaks of, so it has no flow (policy.compiler.hiding)


class Means(Enum):
    """What on the switch puts a request into effect."""

    FLOWS = "flows"
    METER = "meter"
    QUEUE = "queue"


class Cause(Enum):
    """Why a request is not in effect, or not everywhere."""

    UNENFORCED = "unenforced"  # no port, or not this one, can enforce the guarantee
    KERNEL = "kernel"  # the kernel has another queue than it was told
    REFUSED = "refused"  # the switch refused a flow or a meter
    CONTESTED = "contested"  # somebody else keeps undoing what we do
    FOREIGN_FLOW = "foreign-flow"  # somebody else's flow lies where only ours should, so verdicts may differ
    FAIL_OPEN = "fail-open"  # no controller answers, so Open vSwitch lets every packet pass our flows by
    IN_BAND = "in-band"  # Open vSwitch's in-band control takes packets of it before our flows do
    AWAY = "away"  # a bridge cannot be reached
    DRIVEN = "driven"  # another daemon drives a bridge
    NO_BRIDGE = "no-bridge"  # there is none, or not one that the settings name
    NOT_UP = "not-up"  # Open vSwitch has brought up no bridge
    NO_SWITCH = "no-switch"  # the database of Open vSwitch cannot be reached
    NETWORK = "network"  # links cannot hold it: no path, or no room on one
    DEFECT = "defect"  # a part of ovspane itself failed, and is begun again
    NO_NUMBER = "no-number"  # another request still has its queue or meter number
    NOT_COMPILED = "not-compiled"  # it cannot be compiled beside the others (a user moved to too many addresses)


class Note(Enum):
    """What holds otherwise than the request's words may make one think; ovspane(7), section 8."""

    PORT_VLAN = "port-vlan"  # it names VLANs, and all packets of these ports are in one, whatever tag they have
    TWO_TAGS = "two-tags"  # it names what a second VLAN tag hides, and these ports make frames with two
    FRAGMENTS_DROPPED = "fragments-dropped"  # it names what fragments hide, and a datapath cannot put them together


@dataclass(frozen=True, slots=True)
class Remark:
    """A note on a request, and the ports that it is about; none: all of a bridge."""

    note: Note
    ports: tuple[str, ...] = ()

    def text(self) -> str:
        """For people."""
        return self.note.value + (f" on {_few(self.ports)}" if self.ports else "")


#: what is said of a contest
CONTESTED: Final = "somebody else keeps changing ovspane's flows or meters"
_TEXTS: Final[Mapping[Cause, str]] = {
    Cause.KERNEL: "port {port} {detail}",
    Cause.REFUSED: "bridge {bridge} refused its flow: {detail}",
    Cause.CONTESTED: f"bridge {{bridge}}: {CONTESTED}",
    Cause.FOREIGN_FLOW: "bridge {bridge}: {detail}",
    Cause.FAIL_OPEN: "bridge {bridge} fails open: no controller of it answers, and its fail_mode is not secure",
    Cause.IN_BAND: "bridge {bridge}: in-band control takes {detail}",
    Cause.AWAY: "bridge {bridge} is away",
    Cause.DRIVEN: "bridge {bridge} is driven by another ovspane daemon",
    Cause.NO_BRIDGE: "there is no bridge {bridge}",
    Cause.NOT_UP: "bridge {bridge} is not up",
    Cause.NO_SWITCH: "Open vSwitch cannot be reached at {detail}",
    Cause.NO_NUMBER: "request {detail} still has its queue or meter number",
    Cause.DEFECT: "ovspane has a defect here ({detail}); its log says more",
}


@dataclass(frozen=True, slots=True)
class Reason:
    """Why, where, and what there is to say of it besides: what the switch answered, say."""

    cause: Cause
    bridge: str = ""
    port: str = ""
    detail: str = ""

    def text(self) -> str:
        """For people."""
        if self.cause in _TEXTS:
            return _TEXTS[self.cause].format(bridge=self.bridge, port=self.port, detail=self.detail).rstrip()
        return f"{self.port}: {self.detail}" if self.port else self.detail


@dataclass(frozen=True, slots=True)
class Status:
    """`means` and `number` (the id of the meter or the queue): what puts it into effect. `ports`: those on which a
    guarantee is enforced. `reasons`: why it is degraded; of an installed guarantee, the ports that do not enforce it,
    and why. `hiders`: the requests that decide in place of a hidden one, as far as the reader may know of them.
    `remarks`: of one that is in effect."""

    condition: Condition
    means: Means | None = None
    number: int = 0
    ports: tuple[str, ...] = ()
    reasons: tuple[Reason, ...] = ()
    hiders: tuple[int, ...] = ()
    remarks: tuple[Remark, ...] = ()

    @property
    def degraded(self) -> bool:
        """True iff it is not in effect as was promised."""
        return self.condition is Condition.DEGRADED

    @property
    def cause(self) -> Cause | None:
        """Of the first reason; None: there is none."""
        return self.reasons[0].cause if self.reasons else None

    def text(self) -> str:
        """For people; ovspane(7), ListRequests."""
        remarks = "; ".join(remark.text() for remark in self.remarks)
        return self._standing() + (f", note {remarks}" if remarks else "")

    def _standing(self) -> str:
        match self.condition:
            case Condition.INSTALLED if self.number:
                return f"installed {self._by()}" + (f", not on {self._why()}" if self.reasons else "")
            case Condition.DEGRADED if self.ports:
                return f"degraded: {self._by()}, but not on its way by {self._why()}"
            case Condition.DEGRADED:
                return f"degraded: {'unenforced, ' if self.cause is Cause.UNENFORCED else ''}{self._why()}"
            case Condition.HIDDEN:
                return "hidden" + (f" by {','.join(map(str, self.hiders))}" if self.hiders else "")
            case other:
                return str(other.value)

    def _by(self) -> str:
        means = self.means.value if self.means is not None else ""
        return f"by {means} {self.number}" + (f" on {_few(self.ports)}" if self.ports else "")

    def _why(self) -> str:
        more = f" (and {len(self.reasons) - 1} more)" if self.reasons[1:] else ""
        return f"{self.reasons[0].text()}{more}" if self.reasons else ""

    def fields(self) -> dict[str, str | int]:
        """For programs: what an item of ListRequests says in JSON; ovspane(7) has the keys."""
        found: dict[str, str | int] = {"state": self.condition.value}
        if self.means is not None:
            found["means"] = self.means.value
        if self.number:
            found["number"] = self.number
        if self.ports:
            found["ports"] = ",".join(self.ports)
        if self.reasons:
            found["reason"] = self.reasons[0].cause.value
            if lacking := ",".join(reason.port for reason in self.reasons if reason.port):
                found["not_on"] = lacking
        if self.hiders:
            found["hidden_by"] = ",".join(map(str, self.hiders))
        if self.remarks:
            found["note"] = ",".join(remark.note.value for remark in self.remarks)
            if about := ",".join(port for remark in self.remarks for port in remark.ports):
                found["note_on"] = about
        return found


WAITING: Final = Status(Condition.WAITING)
ACTIVE: Final = Status(Condition.ACTIVE)
PENDING: Final = Status(Condition.PENDING)
INSTALLED: Final = Status(Condition.INSTALLED, Means.FLOWS)


def degraded(*reasons: Reason) -> Status:
    """Not in effect, and why."""
    return Status(Condition.DEGRADED, reasons=reasons)


def read_fields(item: Mapping[str, object]) -> Status:
    """The status that an item of ListRequests tells in JSON, without the details that only its text has. Raises
    KeyError or ValueError where it tells none."""
    ports = _split(item.get("not_on"))
    cause = Cause(item["reason"]) if "reason" in item else None
    return Status(
        Condition(item["state"]),
        Means(item["means"]) if "means" in item else None,
        int(str(item.get("number", 0))),
        _split(item.get("ports")),
        tuple(Reason(cause, port=port) for port in ports or ("",)) if cause is not None else (),
        tuple(map(int, _split(item.get("hidden_by")))),
        tuple(Remark(Note(note)) for note in _split(item.get("note"))),
    )


def _split(listed: object) -> tuple[str, ...]:
    return tuple(str(listed).split(",")) if listed else ()


def _few(names: Sequence[str]) -> str:
    """Some names, however many there are."""
    return ",".join(names) if len(names) <= SHOWN else f"{','.join(names[:SHOWN])} and {len(names) - SHOWN} more"
