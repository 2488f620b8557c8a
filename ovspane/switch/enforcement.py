"""What our queues can enforce: on which ports, at which rates, and what to say of each guarantee."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache

from ovspane.lang.units import rate_text
from ovspane.ovsdb.queue_plan import DEFAULT_QUEUE, enforceable, foreign_row, unrepresentable
from ovspane.ovsdb.switch_db import BridgeRow, InterfaceRow, PortRow, SwitchDb
from ovspane.placement.flow_rules import Queue
from ovspane.placement.pipeline import FlowPlan, Guarantee
from ovspane.policy.state.status import Cause, Condition, Means, Reason, Status, degraded
from ovspane.switch.host_queues import HostQueues
from ovspane.switch.scope import BridgeScope

NOT_HERE = Reason(Cause.UNENFORCED, detail="none of the ports that it leaves by is on this host")

#: (bridge, queue id) -> the ports
QueuePorts = Callable[[str, int], frozenset[str] | None]


class Enforcement:
    """Guarantees against ports."""

    def __init__(
        self,
        switch: SwitchDb,
        scope: BridgeScope,
        queues: HostQueues,
        ports_of: QueuePorts = lambda bridge, queue: None,
    ) -> None:
        """`ports_of`: the ports of a bridge that a queue stands on, None: on all that can."""
        self._ports_of = ports_of
        self._switch = switch
        self._scope = scope
        self._queues = queues
        self._plan: FlowPlan | None = None
        self._wanted: list[tuple[str, str]] = []
        self._able: dict[tuple[str, str], str | None] = {}  # port -> why not

    def _ports(self, bridge: BridgeRow) -> list[tuple[str, str]]:
        """The ports that get queues, each with its bridge."""
        return [
            (bridge.name, port.name)
            for port in bridge.ports.values()
            if all(self.unable(interface, bridge) is None for interface in port.interfaces)
        ]

    def unable(self, interface: InterfaceRow, bridge: BridgeRow) -> str | None:
        """Why a port gets no queues. With best effort also ports of which only the datapath ignores them do."""
        reason = enforceable(interface, bridge)
        attached = interface.error is None and interface.ofport is not None and interface.ofport > 0
        if reason is not None and self._scope.best_effort and attached and interface.type in ("", "system"):
            return None
        return reason

    def unenforced(self, bridges: Iterable[BridgeRow], rate: int = 0) -> Reason | None:
        """Why no port of these bridges can enforce a guarantee of `rate` (bit/s); None if one can."""
        first: Reason | None = None
        for bridge in sorted(bridges, key=_name):
            for name, port in sorted(bridge.ports.items()):
                if name == bridge.name:
                    continue  # the way to the host itself
                reason = self._cannot(port, bridge, rate)
                if reason is None:
                    return None
                first = first or Reason(Cause.UNENFORCED, bridge.name, name, reason)
            detail = f"bridge {bridge.name} has no ports that could enforce it"
            first = first or Reason(Cause.UNENFORCED, bridge.name, detail=detail)
        return first or Reason(Cause.UNENFORCED, detail="there is no bridge to enforce it on")

    def _cannot(self, port: PortRow, bridge: BridgeRow, rate: int) -> str | None:
        """Why this port cannot guarantee `rate`: its kind, somebody else's queues, or its speed."""
        reasons = (enforceable(interface, bridge) for interface in port.interfaces)
        reason = next((reason for reason in reasons if reason is not None), None)
        if reason is not None:
            return reason
        has = self._queues.port_qos(bridge.name, port)
        if port.name not in self._scope.adopt and (has.foreign or has.former is not None):
            return foreign_row(port.name)
        speed = self._scope.speeds.get(port.name) or has.speed
        if not speed:
            return f'its speed is not known; say it: [ports] {port.name} = "100Mb" in the configuration'
        if rate > speed:
            return f"it sends at most {rate_text(speed)}"
        return unrepresentable(speed, self._switch.ovs_version)

    def want_queues(self, plan: FlowPlan, bridges: Iterable[BridgeRow], changed: Iterable[int]) -> None:
        """Each guarantee on each port that may get it and that its flows may leave by. Without knowledge of the
        network these are all: where a flow leaves is the bridge's business (NORMAL, other flows). `changed`: the
        queue ids whose guarantees or ports differ from those of the last call, for the same plan."""
        ports = [port for bridge in bridges for port in self._ports(bridge)]
        if self._plan is plan and self._wanted == ports:
            if queues := {number: plan.guarantees.get(number) for number in changed}:
                self._queues.want(
                    {
                        port: {
                            n: _queue(e, port) if e and self._on(bridge, port, n) else None for n, e in queues.items()
                        }
                        for bridge, port in ports
                    }
                )
            return
        self._plan, self._wanted = plan, ports
        entries = plan.guarantees.values()
        self._queues.want_all(
            {
                port: {entry.slot: _queue(entry, port) for entry in entries if self._on(bridge, port, entry.slot)}
                for bridge, port in ports
            }
        )

    def _on(self, bridge: str, port: str, queue: int) -> bool:
        ports = self._ports_of(bridge, queue)
        return ports is None or port in ports

    def changed(self, bridges: Iterable[BridgeRow]) -> bool:
        """True iff other ports than at the last call can enforce queues, or some for other reasons."""
        ports = {
            (bridge.name, name): self._cannot(port, bridge, 0) or self._queues.trouble.get(name) or _not_up(port)
            for bridge in bridges
            for name, port in bridge.ports.items()
        }
        before, self._able = self._able, ports
        return before != ports

    def statuses(self, plan: FlowPlan, bridges: Iterable[BridgeRow]) -> Callable[[int], Status]:
        """What to say of a queue, by its id: where it enforces its guarantee, and where it does not."""
        by_name = sorted(bridges, key=_name)

        @cache
        def places(rate: int, allowed: tuple[frozenset[str] | None, ...]) -> tuple[tuple[str, ...], tuple[Reason, ...]]:
            """The ports that can, and why the others cannot. `allowed`: the ports that count, of each bridge."""
            details = {
                (bridge.name, name): self._cannot(port, bridge, rate) or self._queues.trouble.get(name) or _not_up(port)
                for bridge, ports in zip(by_name, allowed, strict=True)
                for name, port in sorted(bridge.ports.items())
                if (name != bridge.name if ports is None else name in ports and not _is_patch(port))
            }
            good = tuple(name for (_, name), detail in details.items() if detail is None)
            bad = (Reason(Cause.UNENFORCED, *place, detail) for place, detail in details.items() if detail is not None)
            return good, tuple(bad)

        def status(queue: int) -> Status:
            allowed = tuple(self._ports_of(bridge.name, queue) for bridge in by_name)
            good, bad = places(plan.guarantees[queue].rate, allowed)
            if not good:
                return degraded(*(bad or (self.unenforced(by_name) or NOT_HERE,)))
            if bad and None not in allowed:
                return Status(Condition.DEGRADED, Means.QUEUE, queue, good, bad)
            trouble = self._queues.kernel_trouble(queue, good) or self._queues.kernel_trouble(DEFAULT_QUEUE, good)
            if trouble is not None:
                return degraded(trouble)
            return Status(Condition.INSTALLED, Means.QUEUE, queue, good, bad)

        return status


def _not_up(port: PortRow) -> str | None:
    """Why nothing leaves by a port now. In the userspace datapath Open vSwitch keeps one whose device was deleted (with
    ifindex 0, as it has for devices that are none of the kernel's) or renamed, and says that it is down; in the
    kernel's it says that it has not attached it (`enforceable`)."""
    if not all(interface.admin_up is False or interface.link_up is False for interface in port.interfaces):
        return None
    gone = all(interface.ifindex == 0 for interface in port.interfaces)
    return "its device is gone" if gone else "it is down"


def _is_patch(port: PortRow) -> bool:
    """What goes through a patch port is never queued there."""
    return all(interface.type == "patch" for interface in port.interfaces)


def _queue(entry: Guarantee, port: str) -> Queue:
    return Queue(entry.slot, entry.rate, None, (port,), entry.request)


def _name(bridge: BridgeRow) -> str:
    return bridge.name
