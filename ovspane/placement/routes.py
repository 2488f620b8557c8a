"""Routes of steered packets, as values and as text. Pure.

Two texts. `path_text` is for people and for who checks us (the `path` of a request in a reply), by the names of this
host. `via_text` is what a decision writes down (`Request.via`) and what every daemon that shares the database reads, by
the names on all hosts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from ovspane.network.addresses import parse_address
from ovspane.network.model import Port, PortId, global_name, local_name

#: what a route leads between: the bridge where packets enter, and the port to their destination, with its MAC address.
#: Only packets that have it may be sent there: those for a router have to get to it first (0: the match says it, or it
#: was not written down)
Pair = tuple[str, PortId, int]
#: the ports by which steered packets leave the bridges of their path, each with its OpenFlow number (0: not known);
#: none: there is no path for them now, and they get no queue
Route = tuple[tuple[PortId, int], ...]
Routes = Mapping[Pair, Route]

_NONE = ": none"


def ports_of(route: Route) -> tuple[PortId, ...]:
    """The ports of a route, without their numbers, which may change while the path does not."""
    return tuple(port for port, _ in route)


def path_text(pair: Pair, route: Route) -> str:
    """`BRIDGE:PORT BRIDGE:PORT for MAC` or `BRIDGE to BRIDGE:PORT for MAC: none`."""
    start, end, mac = pair
    ports = " ".join(str(port) for port, _ in route) if route else f"{start} to {end}"
    return f"{ports} for {mac.to_bytes(6, 'big').hex(':')}{'' if route else _NONE}"


def parse_paths(text: str, ports: Mapping[PortId, Port]) -> dict[Pair, Route]:
    """What `path_text` wrote, several with "; " between, with the ports' numbers of now. Raises ValueError."""
    found: dict[Pair, Route] = {}
    for part in filter(None, text.split("; ")):
        names, _, mac = part.removesuffix(_NONE).partition(" for ")
        if part.endswith(_NONE):
            start, _, end = names.partition(" to ")
            found[start, PortId.parse(end), parse_address(mac)[1]] = ()
        else:
            path = [PortId.parse(name) for name in names.split(" ")]
            numbers = [known.number if (known := ports.get(name)) is not None else None for name in path]
            route = tuple((name, number or 0) for name, number in zip(path, numbers, strict=True))
            found[path[0].bridge, path[-1], parse_address(mac)[1]] = route
    return found


def via_text(routes: Routes, host: str) -> str:
    """The routes' ports by their names on all hosts, and the MAC address that they lead to, as JSON. `host`: our name
    among those who share the database; "": nobody does, and the names are our own."""
    paths: list[list[object]] = []
    for (_, _, mac), route in sorted(routes.items()):
        paths.append([global_name(port, host) if host else port for port, _ in route])
        paths[-1] += [mac.to_bytes(6, "big").hex(":")] if mac else []
    return json.dumps(paths) if routes else ""


def parse_via(via: str, host: str) -> dict[Pair, Route]:
    """What `via_text` wrote, with no port's number known; nothing if somebody wrote something else there by hand."""
    found: dict[Pair, Route] = {}
    try:
        for written in json.loads(via or "[]"):
            mac = parse_address(written[-1])[1] if written and isinstance(written[-1], str) else 0
            ports = [PortId(str(bridge), str(port)) for bridge, port in (written[:-1] if mac else written)]
            route = tuple((local_name(port, host) if host else port, 0) for port in ports)
            if route:
                found[route[0][0].bridge, route[-1][0], mac] = route
    except (ValueError, TypeError, KeyError):
        return {}
    return found
