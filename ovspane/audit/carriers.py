"""Which flows of which bridges carry a request's packets, and what they counted. It changes nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from ovspane.flowpush import BridgeSession
from ovspane.packets.match import LAYOUT, Match
from ovspane.placement.flow_rules import COOKIE_MASK, COOKIE_TAG


@dataclass(frozen=True, slots=True)
class Carrier:
    """A flow of a request on a bridge. `packets`, `bytes`: what it matched since it was added, also what its meter
    dropped then; `dropped`: packets that its meter dropped, those of other flows through it too (None: no meter)."""

    request: int
    bridge: str
    table: int
    priority: int
    match: str
    does: str
    packets: int
    bytes: int
    dropped: int | None = None


async def carriers(
    rundir: Path, bridges: Iterable[str], requests: Collection[int], matches: Collection[Match] | None
) -> list[Carrier]:
    """The flows of these requests on these bridges that have packets of one of the matches (None: all), by bridge and
    table. A bridge that is not there is left out. Raises SessionError."""
    found = []
    for bridge in bridges:
        path = rundir / f"{bridge}.mgmt"
        if path.exists():
            async with BridgeSession(path) as session:
                stats, meters = await session.flow_stats(), await session.meter_stats()
            for one in stats:
                rule, does = one.rule, one.rule.instructions
                request = rule.cookie & ~COOKIE_MASK
                if rule.cookie & COOKIE_MASK != COOKIE_TAG or request not in requests:
                    continue
                if matches is not None and not any(rule.match.overlaps(match) for match in matches):
                    continue
                meter = meters.get(does.meter) if does.meter is not None else None
                dropped = meter.dropped if meter is not None else None
                found.append(
                    Carrier(
                        request, bridge, rule.table, rule.priority, match_text(rule.match),
                        _does(does.meter, does.set_queue, does.output, does.conjunctions, does.goto),
                        one.packets, one.bytes, dropped,
                    )
                )  # fmt: skip
    return sorted(found, key=lambda one: (one.request, one.bridge, one.table, -one.priority, one.match))


def _does(
    meter: int | None, queue: int | None, output: int | None, clauses: Collection[object], goto: int | None
) -> str:
    if clauses:
        return "a clause of a conjunction (counts nothing itself)"
    words = [f"meter {meter}"] if meter is not None else []
    words += [f"queue {queue}"] if queue is not None else []
    words += [f"by port {output}"] if output is not None else []
    return ", ".join(words) or ("lets pass" if goto is not None else "drops")


def match_text(match: Match) -> str:
    """A match as ovs-fields(7) names the fields, addresses and prefixes as people write them."""
    said = []
    for name, value, mask in match.fields():
        if name == "mark":
            continue
        width = LAYOUT[name][1]
        value_text, mask_text = _value_text(name, value), ""
        if mask != (1 << width) - 1:
            prefix = mask.bit_count()
            is_prefix = name in _ADDRESSES and mask == ((1 << prefix) - 1) << width - prefix
            mask_text = f"/{prefix if is_prefix else hex(mask)}"
        said.append(f"{_NAMES.get(name, name)}={value_text}{mask_text}")
    whole = str(match)
    state = [part for part in whole.split(",") if part.split("=")[0] not in LAYOUT]
    return ",".join([*said, *(part for part in state if part != "*")]) or "*"


_ADDRESSES = ("ipv4_src", "ipv4_dst", "ipv6_src", "ipv6_dst")
_NAMES = {"ipv4_src": "nw_src", "ipv4_dst": "nw_dst", "ip_proto": "nw_proto", "eth_src": "dl_src", "eth_dst": "dl_dst"}


def _value_text(name: str, value: int) -> str:
    if name in _ADDRESSES:
        return str(ip_address(value.to_bytes(LAYOUT[name][1] // 8, "big")))
    if name in ("eth_src", "eth_dst"):
        return value.to_bytes(6, "big").hex(":")
    return hex(value) if name in ("eth_type", "vlan") else str(value)
