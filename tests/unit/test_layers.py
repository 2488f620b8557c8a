"""The layers of docs/architecture.md, checked on the syntax tree of every module: imports point down only, and the pure
rooms import nothing that does I/O or reads a clock.

Rooms are the modules and packages directly under ovspane/. A room may import rooms of lower layers, of its own layer,
and itself; LAYERS lists them from the top down.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "ovspane"

LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"daemon", "cli", "__main__"}),
    frozenset({"server", "control", "probe", "verify", "explain", "metrics", "notify"}),
    frozenset(
        {
            "reconcile", "desired", "enforcing", "bridge", "watching", "ownership", "installed", "queueing", "queue_ledger",
            "discovery", "flooding", "shared_topology", "timers", "accounting", "replay",
        }
    ),
    frozenset(
        {
            "flowpush", "flowbytes", "_fastflow", "_fastflow_py", "ovsdb_queues", "queue_plan", "openflow", "ofwatch", "oxm",
            "ovsdb_policing", "tc", "ofsession", "ofpackets", "ofports", "oftables", "unixctl", "bridge_lock", "ovsdb",
            "ovsdb_replica", "store", "config", "garbage",
        }
    ),
    frozenset({"network"}),
    frozenset({"policy"}),
    frozenset(
        {
            "lang", "flowgroup", "overlap", "algebra", "match", "intervals", "units",
            "_fastaccess", "_fastalgebra", "_fastalgebra_py", "_fastcompile", "_fastexpand",
            "_fastmatch", "_fastmatch_py", "_schedule",
        }
    ),
)
PURE = LAYERS[4] | LAYERS[5] | LAYERS[6]
LEVEL = {room: level for level, rooms in enumerate(reversed(LAYERS)) for room in rooms}

# What a pure room may use of the standard library and of others: values, algorithms, text. Whatever is not listed
# (socket, asyncio, time, os, subprocess, random, ovs, ...) does I/O, reads a clock or differs from run to run.
PURE_IMPORTS = frozenset(
    {
        "__future__", "abc", "array", "bisect", "bitarray", "collections", "contextlib", "copy", "cython",
        "dataclasses", "datetime", "decimal", "enum", "fractions", "functools", "hashlib", "heapq", "hmac", "ipaddress",
        "itertools", "json", "math", "networkx", "operator", "re", "string", "struct", "textwrap", "types", "typing", "unicodedata",
    }
)
PURE_NAMES = frozenset(
    {
        "socket.inet_pton", "socket.inet_ntop", "socket.AF_INET", "socket.AF_INET6", "sys.intern", "sys.maxsize",
    }
)
# Imported, these are values; called, they read a clock.
CLOCKS = frozenset({"now", "utcnow", "today"})
# Impure only at their edge: overlap and policy.schedule pick the engine by an environment variable when imported; lang.verbs,
# run as a program, prints the completion and the manual page made from its table.
EDGES = frozenset({("ovspane.overlap", "os"), ("ovspane.policy.schedule", "os"), ("ovspane.lang.verbs", "sys")})


def modules() -> list[Path]:
    return sorted(path for pattern in ("*.py", "*.pyx") for path in PACKAGE.rglob(pattern))


def room_of(module: str) -> str:
    """The room of a dotted module name below ovspane, "" for the package itself."""
    return module.split(".")[1] if "." in module else ""


def dotted_name(path: Path, package: Path = PACKAGE) -> str:
    parts = ["ovspane", *path.relative_to(package).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything imported anywhere in a module, also inside functions or under TYPE_CHECKING."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = module.split(".")[: len(module.split(".")) - node.level + is_package]
                base = ".".join([*parent, base] if base else parent)
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("__import__", "importlib.import_module"):
            yield node.lineno, ast.literal_eval(node.args[0]) if isinstance(node.args[0], ast.Constant) else "?"


def _pure_import(module: str, name: str) -> bool:
    top = name.split(".")[0]
    return top in PURE_IMPORTS or name in PURE_NAMES or (module, top) in EDGES


def _impure_calls(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, call) of what does I/O or reads a clock without an import that says so."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        match node.func:
            case ast.Name(id="open" | "print" | "input" as name):
                yield node.lineno, f"{name}()"
            case ast.Attribute(value=ast.Name(id="datetime" | "date") | ast.Attribute(), attr=name) if name in CLOCKS:
                yield node.lineno, f"{ast.unparse(node.func)}()"


def faults(source: str, module: str, is_package: bool = False) -> list[str]:
    """What a module's imports and calls break, one sentence each."""
    room = room_of(module)
    found = []
    if room and room not in LEVEL:
        return [f"{module}: the room {room} is in no layer; add it to LAYERS and to docs/architecture.md"]
    for line, name in imports(ast.parse(source), module, is_package):
        top = name.split(".")[0]
        if top == "ovspane":
            other = room_of(name)
            if other in LEVEL and (not room or LEVEL[other] > LEVEL[room]):
                found.append(f"{module}:{line}: imports {name}, which is above {room or 'the package'}")
            elif other and other not in LEVEL and not other.startswith("__"):
                found.append(f"{module}:{line}: imports {name} of a room in no layer")
        elif room in PURE and not _pure_import(module, name):
            found.append(f"{module}:{line}: pure, but imports {name}")
    if room in PURE:
        found += [f"{module}:{line}: pure, but calls {call}" for line, call in _impure_calls(ast.parse(source))]
    return found


@pytest.mark.parametrize("path", [p for p in modules() if p.suffix == ".py"], ids=dotted_name)
def test_imports_point_down_and_pure_rooms_are_pure(path: Path) -> None:
    assert faults(path.read_text(), dotted_name(path), path.name == "__init__.py") == []


def test_the_package_is_found() -> None:
    assert {"ovspane.lang.statements", "ovspane.match", "ovspane.network.values"} <= {dotted_name(p) for p in modules()}


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        ("ovspane.lang.parser", "from ovspane.policy import shares", "above lang"),
        ("ovspane.lang.parser", "from ..network import values", "above lang"),
        ("ovspane.lang.parser", "from .. import daemon", "above lang"),
        ("ovspane.policy.shares", "def f():\n    import ovspane.network.values", "above policy"),
        ("ovspane.policy.shares", "if TYPE_CHECKING:\n    from ovspane.flowpush import Session", "above policy"),
        ("ovspane.network.values", "from importlib import import_module as m\nimport importlib", "pure, but imports"),
        ("ovspane.openflow", "from ovspane import reconcile", "above openflow"),
        ("ovspane.openflow", "import importlib\nimportlib.import_module('ovspane.daemon')", "above openflow"),
        ("ovspane.reconcile", "import ovspane.server.sessions", "above reconcile"),
        ("ovspane", "from ovspane.daemon import main", "above the package"),
        ("ovspane.match", "import socket", "imports socket"),
        ("ovspane.policy.schedule", "from time import monotonic", "imports time.monotonic"),
        ("ovspane.policy.schedule", "from datetime import datetime\nx = datetime.now()", "calls datetime.now()"),
        ("ovspane.policy.schedule", "import datetime as d\nx = d.datetime.now()", "calls d.datetime.now()"),
        ("ovspane.lang.parser", "import socket", "imports socket"),
        ("ovspane.lang.parser", "from socket import create_connection", "imports socket.create_connection"),
        ("ovspane.flowgroup", "import os.path", "imports os.path"),
        ("ovspane.network.paths", "import ovs.db.idl", "imports ovs.db.idl"),
        ("ovspane.network.paths", "open('/etc/passwd')", "calls open()"),
        ("ovspane.cellar", "import math", "in no layer"),
        ("ovspane.daemon", "import ovspane.cellar", "in no layer"),
    ],
)
def test_the_check_sees(module: str, source: str, fault: str) -> None:
    [first, *_] = faults(source, module)
    assert fault in first


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("ovspane.daemon", "import asyncio, os\nfrom ovspane import reconcile, policy\nfrom ovspane.cli import main"),
        ("ovspane.policy.tree", "from ovspane.policy.shares import Share\nfrom ovspane.lang import statements"),
        ("ovspane.policy.tree", "from . import shares\nfrom .shares import Share\nfrom collections.abc import Mapping"),
        ("ovspane.lang.parser", "from datetime import UTC, datetime\nx = datetime.fromtimestamp(0, UTC)"),
        ("ovspane.openflow", "import struct, asyncio\nfrom ovspane.network.values import FlowRule"),
    ],
)
def test_the_check_allows(module: str, source: str) -> None:
    assert faults(source, module) == []
