"""The network as a graph for Graphviz, and as a picture without it. Pure functions of the items of `ListTopology.`

Names come from the network, so each is quoted for where it goes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any
from xml.sax.saxutils import escape

from ovspane.lang.units import rate_text

Item = dict[str, Any]
Point = tuple[float, float]

#: hosts drawn at one bridge; the others are a number
MOST_HOSTS = 24
#: the size of things in the picture (pixels)
WIDE, HIGH, SPREAD, REACH = 96, 32, 260.0, 110.0

_STYLE = (
    "text{font:12px sans-serif;text-anchor:middle;dominant-baseline:central;fill:#222}"
    ".small{font-size:10px;fill:#666}.bridge{fill:#dbe9ff;stroke:#36c}.far{fill:#eee;stroke:#888}"
    ".host{fill:#fff4d6;stroke:#b80}.link{stroke:#36c;stroke-width:2}.wire{stroke:#b80}.probe{stroke-dasharray:6 3}"
)


def _of(items: list[Item], kind: str) -> list[Item]:
    return [item for item in items if item["kind"] == kind]


def _hosts(items: list[Item]) -> dict[str, list[tuple[str, str]]]:
    """Bridge -> (name, text) of what is drawn at it: its hosts, or the first ones and how many more."""
    port_bridge = {item["name"]: item["bridge"] for item in _of(items, "port")}
    found: dict[str, list[tuple[str, str]]] = {}
    for host in _of(items, "host"):
        bridge = port_bridge.get(host["at"])
        if bridge is not None:
            found.setdefault(bridge, []).append((host["mac"], host["addresses"].split(",")[0]))
    for bridge, hosts in found.items():
        if len(hosts) > MOST_HOSTS:
            found[bridge] = [*hosts[:MOST_HOSTS], (f"{bridge}, other hosts", f"{len(hosts) - MOST_HOSTS} more")]
    return found


def _link_text(link: Item) -> str:
    return rate_text(link["speed"]) if link["speed"] else ""


def _quoted(text: str) -> str:
    """A quoted name of the DOT language. Backslashes are doubled: labels have escapes of their own."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def dot(items: list[Item]) -> str:
    """The graph in the DOT language (graphviz.org/doc/info/lang.html)."""
    lines = ["graph ovspane {", "  node [fontname=sans, fontsize=11];", "  edge [fontname=sans, fontsize=9];"]
    for item in _of(items, "bridge"):
        color = "gray" if item["host"] else "lightblue"
        lines.append(f"  {_quoted(item['name'])} [shape=box, style=filled, fillcolor={color}];")
    for link in _of(items, "link"):
        style = "dashed" if link["origin"] == "probe" else "solid"
        ends = f"taillabel={_quoted(_port_of(link, 'a'))}, headlabel={_quoted(_port_of(link, 'b'))}"
        label = _quoted(_link_text(link))
        names = f"{_quoted(link['a_bridge'])} -- {_quoted(link['b_bridge'])}"
        lines.append(f"  {names} [style={style}, label={label}, {ends}];")
    for bridge, hosts in _hosts(items).items():
        for host, text in hosts:
            lines.append(f"  {_quoted(host)} [shape=ellipse, label={_quoted(host)[:-1]}{chr(92)}n{_quoted(text)[1:]}];")
            lines.append(f"  {_quoted(bridge)} -- {_quoted(host)};")
    return "\n".join([*lines, "}", ""])


def _port_of(link: Item, end: str) -> str:
    return str(link[end])[len(link[f"{end}_bridge"]) + 1 :]


def svg(items: list[Item]) -> str:
    """The picture: bridges in a circle, the hosts of each outside of it."""
    names = [bridge["name"] for bridge in _of(items, "bridge")]
    hosts = _hosts(items)
    radius = 0.0 if len(names) < 2 else max(SPREAD / 2, SPREAD * len(names) / math.tau)
    middle = radius + REACH + WIDE
    places = {name: _around((middle, middle), radius, index / len(names)) for index, name in enumerate(names)}
    size = 2 * middle
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{size:.0f}" height="{size:.0f}" viewBox="0 0 '
        f'{size:.0f} {size:.0f}">',
        f"<style>{_STYLE}</style>",
    ]
    for link in _of(items, "link"):
        a, b = places.get(link["a_bridge"]), places.get(link["b_bridge"])
        if a is not None and b is not None:
            lines += _line(a, b, f"link {link['origin']}", _title(link), _link_text(link))
    for index, name in enumerate(names):
        here = hosts.get(name, [])
        for number, (host, text) in enumerate(here):
            turn = index / len(names) + ((number + 0.5) / len(here) - 0.5) * (0.9 / len(names) if len(names) > 1 else 1)
            place = _around((middle, middle), radius + REACH, turn)
            lines += _line(places[name], place, "wire", f"{name} - {host}", "")
            lines += _box(place, "host", host, text)
    far = {bridge["name"] for bridge in _of(items, "bridge") if bridge["host"]}
    for name, place in places.items():
        lines += _box(place, "far" if name in far else "bridge", name, "")
    return "\n".join([*lines, "</svg>", ""])


def _title(link: Item) -> str:
    return f"{link['a']} - {link['b']} ({link['medium']}, {link['origin']})"


def _around(center: Point, radius: float, turn: float) -> Point:
    angle = math.tau * (turn - 0.25)
    return center[0] + radius * math.cos(angle), center[1] + radius * math.sin(angle)


def _line(a: Point, b: Point, kind: str, title: str, label: str) -> Iterator[str]:
    yield (
        f'<line class="{escape(kind)}" x1="{a[0]:.1f}" y1="{a[1]:.1f}" x2="{b[0]:.1f}" y2="{b[1]:.1f}">'
        f"<title>{escape(title)}</title></line>"
    )
    if label:
        yield f'<text class="small" x="{(a[0] + b[0]) / 2:.1f}" y="{(a[1] + b[1]) / 2:.1f}">{escape(label)}</text>'


def _box(at: Point, kind: str, text: str, more: str) -> Iterator[str]:
    wide = max(WIDE, 7 * len(text) + 8)
    yield (
        f'<rect class="{kind}" x="{at[0] - wide / 2:.1f}" y="{at[1] - HIGH / 2:.1f}" width="{wide}" '
        f'height="{HIGH}" rx="5">'
        f"<title>{escape(f'{text} {more}'.strip())}</title></rect>"
    )
    first = at[1] - (6 if more else 0)
    yield f'<text x="{at[0]:.1f}" y="{first:.1f}">{escape(text)}</text>'
    if more:
        yield f'<text class="small" x="{at[0]:.1f}" y="{at[1] + 8:.1f}">{escape(more)}</text>'
