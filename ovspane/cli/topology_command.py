"""`ovspane topology`: bridges, ports, links and hosts as the daemon knows them, as text, JSON, a Graphviz graph or a
picture.

Drawings are pure functions of the items.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

from ovspane.cli.client import default_socket, items_of
from ovspane.cli.topology_picture import dot, svg
from ovspane.lang.units import rate_text

Item = dict[str, Any]
#: seconds that the program `dot` gets; networks that it is not done with by then are drawn by us
DOT_SECONDS = 20.0


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The options of `ovspane topology`."""
    parser = subparsers.add_parser(
        "topology",
        help="show the network: bridges, ports, links, hosts",
        description="Show the network as the daemon knows it: bridges, ports, links and hosts, and how each was "
        "learned.",
    )
    parser.add_argument("--socket", default=default_socket(), metavar="PATH", help="the daemon's socket (%(default)s)")
    parser.add_argument(
        "--format",
        choices=("text", "json", "dot", "svg"),
        default="text",
        help="dot: a graph for Graphviz; svg: a picture",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the network. Returns the exit status."""
    items = items_of(options.socket, "ListTopology.")
    if isinstance(items, int):
        return items
    match options.format:
        case "json":
            print(json.dumps(items, ensure_ascii=False, indent=2))
        case "dot":
            print(dot(items), end="")
        case "svg":
            print(_graphviz(dot(items)) or svg(items), end="")
        case _:
            print("\n".join(draw(items)))
    return 0


def _graphviz(graph: str) -> str | None:
    """The picture that the program `dot` makes; None if it is not there or does not manage."""
    program = shutil.which("dot")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, "-Tsvg", "-Kneato", "-Goverlap=false"],
            input=graph,
            capture_output=True,
            text=True,
            timeout=DOT_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 and "<svg" in done.stdout else None


def draw(items: list[Item]) -> list[str]:
    """The network as text: each bridge with its ports, and at each port what is there."""
    there: dict[str, list[str]] = {}
    for item in items:
        match item["kind"]:
            case "link":
                about = f"({item['medium']}, {item['origin']}, {_age(item['age'])})"
                for end, other in ((item["a"], item["b"]), (item["b"], item["a"])):
                    there.setdefault(end, []).append(f"link to {other} {about}")
            case "host":
                there.setdefault(item["at"], []).append(_host(item))
    lines: list[str] = []
    for bridge in (item for item in items if item["kind"] == "bridge"):
        lines.append(
            f"{bridge['name']}  {f'datapath {identity}' if (identity := bridge['datapath_id']) else ''}".rstrip()
            + (f"  on {bridge['host']} ({bridge['origin']})" if bridge["host"] else "")
        )
        lines += _ports([item for item in items if item["kind"] == "port" and item["bridge"] == bridge["name"]], there)
    known = {item["name"] for item in items if item["kind"] == "port"}
    for place, texts in there.items():
        if place not in known:
            lines += [f"{place or 'not attached'}:", *(f"    {text}" for text in texts)]
    lines += [f"! {item['text']}" for item in items if item["kind"] == "conflict"]
    return lines or ["no bridges"]


def _ports(ports: list[Item], there: dict[str, list[str]]) -> Iterator[str]:
    ports.sort(key=lambda port: (port["number"] is None, port["number"] or 0, port["port"]))
    width = max((len(port["port"]) for port in ports), default=0)
    for port in ports:
        number = "LOCAL" if port["number"] == 0xFFFE else port["number"] or "-"
        speed = rate_text(port["speed"]) if port["speed"] else "-"
        kind = "" if port["type"] == "system" else f"{port['type']}  "
        head = f"  {number!s:>5}  {port['port']:<{width}}  {'up' if port['up'] else 'down':<4}  {speed:>6}  {kind}"
        first, *rest = there.get(port["name"], [""])
        yield (head + first).rstrip()
        for text in rest:
            yield " " * len(head) + text


def _host(item: Item) -> str:
    addresses = item["addresses"].replace(",", " ")
    held = ", held: seen at several ports in turn" if item["damped"] else ""
    return f"host {item['mac']}{' ' if addresses else ''}{addresses} ({item['origin']}, {_age(item['age'])}{held})"


def _age(seconds: float) -> str:
    """12s, 5min, 3h, 2d."""
    for name, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f}{name}"
    return f"{seconds:.0f}s"
