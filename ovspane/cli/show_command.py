"""`ovspane show`: the tree of shares with their use now.

The drawing is a pure function of the items.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from typing import Any

from ovspane.cli.client import items_of
from ovspane.cli.send_command import add_connection_options
from ovspane.lang.units import rate_text

Item = dict[str, Any]
BAR = 10  # characters


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The options of `ovspane show`."""
    parser = subparsers.add_parser(
        "show", help="show the tree of shares with their use now", description="Show the tree of shares with their use."
    )
    add_connection_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the tree of shares. Returns the exit status."""
    items = items_of(options.socket, "ListShares.")
    if isinstance(items, int):
        return items
    if options.format == "json":
        print(json.dumps(items, ensure_ascii=False, indent=2))
    else:
        print("\n".join(draw(items, shutil.get_terminal_size((100, 24)).columns)))
    return 0


def draw(items: list[Item], width: int = 100) -> list[str]:
    """The lines of the tree. A share whose parent is not among the items (the speaker may not see it) is a root."""
    names = {item["name"] for item in items}
    children: dict[str | None, list[Item]] = {}
    for item in items:
        parent = item.get("parent")
        children.setdefault(parent if parent in names and parent != item["name"] else None, []).append(item)
    rows = [(stem + str(item["name"]), item) for stem, item in _walk(children)]
    if not rows:
        return ["no shares"]
    column = min(max(len(label) for label, _ in rows), max(width // 3, 12))
    return [_row(label.ljust(column), item) for label, item in rows]


def _walk(children: dict[str | None, list[Item]]) -> Iterator[tuple[str, Item]]:
    """(branches drawn before the name, item), depth first; no recursion, so a deep tree is as good as a flat one."""
    stack = [("", "", item) for item in reversed(children.get(None, []))]
    while stack:
        stem, below, item = stack.pop()
        yield stem, item
        under = children.get(item["name"], [])
        for child in reversed(under):
            last = child is under[-1]
            stack.append((below + ("└─ " if last else "├─ "), below + ("   " if last else "│  "), child))


def _row(label: str, item: Item) -> str:
    holders = "everybody" if item.get("everybody") else str(item.get("holders") or "nobody").replace(",", ", ")
    requests = int(item.get("requests") or 0)
    count = f"{requests} request" + ("" if requests == 1 else "s")
    return f"{label}  {usage(item)}  {count:<11}  {item.get('flowgroup', '')}  held by {holders}"


def usage(item: Item) -> str:
    """What is reserved of what may be, as a bar and numbers, in a fixed width."""
    used, most = int(item.get("reserved_now") or 0), item.get("reserve_max")
    if most is None:
        bar, text = "∞".center(BAR), f"{rate_text(used)} of unlimited"
    elif not most:
        bar, text = " " * BAR, "no reservations"
    else:
        share = min(used / most, 1.0)
        full = round(share * BAR)
        if used and not full:
            full = 1  # what is not nothing must show
        bar, text = "█" * full + "·" * (BAR - full), f"{rate_text(used)} of {rate_text(most)} ({share:.0%})"
    return f"[{bar}] {text:<24}"
