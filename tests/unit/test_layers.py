"""The layers of docs/architecture.md, checked on the sources of every module, Cython's too: imports point down only,
never sideways, and the pure rooms import nothing that does I/O or reads a clock.

A room (tools/rooms.py) may import rooms of lower lines of LAYERS and itself, not those on its own line.
"""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tools.rooms import CYTHON, arrows, dotted_name, floors, imports, imports_of, modules, room_of

#: from the top floor down
LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"cli"}),
    frozenset({"daemon"}),
    frozenset({"server", "discovery", "switch", "audit", "replay"}),
    frozenset({"store", "flowpush", "ovsdb_queues"}),
    frozenset({"openflow", "ovsdb", "policy"}),
    frozenset({"placement", "policy.admission"}),
    frozenset({"config", "policy.compiler", "policy.state"}),
    frozenset({"network", "host", "policy.model"}),
    frozenset({"dataplane", "lang"}),
    frozenset({"packets"}),
    frozenset({"_fastmatch", "loop"}),
)
LEVEL = {room: level for level, rooms in enumerate(reversed(LAYERS), 1) for room in rooms}
PURE = frozenset(room for room in LEVEL if room.startswith("policy")) | {
    "placement",
    "network",
    "dataplane",
    "lang",
    "packets",
    "_fastmatch",
}

# What a pure room may use of the standard library and of others: values, algorithms, text. Whatever is not listed
# (socket, asyncio, time, os, subprocess, random, ovs, ...) does I/O, reads a clock or differs from run to run.
PURE_IMPORTS = frozenset(
    {
        "__future__",
        "abc",
        "array",
        "bisect",
        "bitarray",
        "collections",
        "contextlib",
        "copy",
        "cpython",
        "cython",
        "dataclasses",
        "datetime",
        "decimal",
        "enum",
        "fractions",
        "functools",
        "hashlib",
        "heapq",
        "hmac",
        "ipaddress",
        "itertools",
        "json",
        "libc",
        "math",
        "networkx",
        "operator",
        "re",
        "string",
        "struct",
        "textwrap",
        "types",
        "typing",
        "unicodedata",
    }
)
PURE_NAMES = frozenset(
    {"socket.inet_pton", "socket.inet_ntop", "socket.AF_INET", "socket.AF_INET6", "sys.intern", "sys.maxsize"}
)
# Imported, these are values; called, they read a clock.
CLOCKS = frozenset({"now", "utcnow", "today"})
# Impure only at their edge: lang.verbs, run as a program, prints the completion and the manual page made from its
# table; packets.compiled reads OVSPANE_PURE and looks for what was built.
EDGES = frozenset(
    {
        ("ovspane.lang.verbs", "sys"),
        ("ovspane.packets.compiled", "os"),
        ("ovspane.packets.compiled", "importlib"),
    }
)


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


def _import_faults(module: str, found: Iterable[tuple[int, str]]) -> Iterator[str]:
    room = room_of(module)
    for line, name in found:
        if name.split(".")[0] == "ovspane":
            other = room_of(name)
            if other == room or not other or (not room and other.startswith("__")):
                continue
            if other not in LEVEL:
                yield f"{module}:{line}: imports {name} of a room in no layer"
            elif not room or LEVEL[other] > LEVEL[room]:
                yield f"{module}:{line}: imports {name}, which is above {room or 'the package'}"
            elif LEVEL[other] == LEVEL[room]:
                yield f"{module}:{line}: imports {name}, which is beside {room}"
        elif room in PURE and not _pure_import(module, name):
            yield f"{module}:{line}: pure, but imports {name}"


def faults(source: str, module: str, is_package: bool = False) -> list[str]:
    """What the imports and calls of a Python module break, one sentence each."""
    if (room := room_of(module)) and room not in LEVEL:
        return [f"{module}: the room {room} is in no layer; add it to LAYERS and to docs/architecture.md"]
    found = list(_import_faults(module, imports(source, module, is_package)))
    if room in PURE:
        found += [f"{module}:{line}: pure, but calls {call}" for line, call in _impure_calls(ast.parse(source))]
    return found


@pytest.mark.parametrize("path", [p for p in modules() if p.suffix == ".py"], ids=dotted_name)
def test_imports_point_down_and_pure_rooms_are_pure(path: Path) -> None:
    assert faults(path.read_text(), dotted_name(path), path.name == "__init__.py") == []


@pytest.mark.parametrize("path", [p for p in modules() if p.suffix in CYTHON], ids=lambda path: path.name)
def test_imports_of_cython_point_down(path: Path) -> None:
    assert list(_import_faults(dotted_name(path), imports_of(path))) == []


def test_each_room_is_in_one_layer() -> None:
    assert set(arrows()) == set(LEVEL)
    assert sum(map(len, LAYERS)) == len(LEVEL)


def test_no_layer_is_for_show() -> None:
    """The table is no taller than the imports need."""
    assert max(floors(arrows()).values()) == len(LAYERS)


def test_a_circle_is_found() -> None:
    with pytest.raises(ValueError, match="a circle: a -> b -> a"):
        floors({"a": {"b"}, "b": {"a"}})


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        ("ovspane.lang.parser", "from ovspane.policy.state import shares", "above lang"),
        ("ovspane.lang.parser", "from ..network import values", "above lang"),
        ("ovspane.lang.parser", "from .. import daemon", "above lang"),
        ("ovspane.policy.state.shares", "def f():\n    import ovspane.placement.flow_rules", "above policy.state"),
        (
            "ovspane.policy.model.tree",
            "if TYPE_CHECKING:\n    from ovspane.flowpush import Session",
            "above policy.model",
        ),
        ("ovspane.policy.state.state", "from ovspane.policy.compiler import compile", "beside policy.state"),
        ("ovspane.policy.model.tree", "from ovspane.policy import runtime", "above policy.model"),
        ("ovspane.network.model", "from importlib import import_module as m\nimport importlib", "pure, but imports"),
        ("ovspane.openflow.framing", "from ovspane import switch", "above openflow"),
        ("ovspane.openflow.framing", "import importlib\nimportlib.import_module('ovspane.daemon')", "above openflow"),
        ("ovspane.openflow.framing", "from ovspane.ovsdb import jsonrpc", "beside openflow"),
        ("ovspane.switch.reconciler", "import ovspane.server.sessions", "beside switch"),
        ("ovspane.flowpush", "from ovspane import ovsdb_queues", "beside flowpush"),
        ("ovspane", "from ovspane.daemon import main", "above the package"),
        ("ovspane.packets.match", "import socket", "imports socket"),
        ("ovspane.policy.state.schedule", "from time import monotonic", "imports time.monotonic"),
        ("ovspane.policy.state.schedule", "from datetime import datetime\nx = datetime.now()", "calls datetime.now()"),
        ("ovspane.policy.state.schedule", "import datetime as d\nx = d.datetime.now()", "calls d.datetime.now()"),
        ("ovspane.lang.parser", "from socket import create_connection", "imports socket.create_connection"),
        ("ovspane.packets.flowgroup", "import os.path", "imports os.path"),
        ("ovspane.network.paths", "import ovs.db.idl", "imports ovs.db.idl"),
        ("ovspane.network.paths", "open('/etc/passwd')", "calls open()"),
        ("ovspane.cellar", "import math", "in no layer"),
        ("ovspane.daemon", "import ovspane.cellar", "in no layer"),
    ],
)
def test_the_check_sees(module: str, source: str, fault: str) -> None:
    [first, *_] = faults(source, module)
    assert fault in first


def test_the_check_sees_cimports(tmp_path: Path) -> None:
    source = tmp_path / "ovspane" / "packets" / "_fastalgebra.pyx"
    source.parent.mkdir(parents=True)
    source.write_text("cimport cython\nfrom ovspane.policy.compiler._fastentries cimport Entry\n")
    [fault] = _import_faults("ovspane.packets._fastalgebra", imports_of(source))
    assert "above packets" in fault


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("ovspane.daemon", "import asyncio, os\nfrom ovspane import switch, policy\nfrom ovspane.daemon import wiring"),
        (
            "ovspane.policy.model.tree",
            "from ovspane.policy.model.actions import Verdict\nfrom ovspane.lang import statements",
        ),
        (
            "ovspane.policy.model.tree",
            "from . import actions\nfrom .actions import Verdict\nfrom collections.abc import Mapping",
        ),
        ("ovspane.lang.parser", "from datetime import UTC, datetime\nx = datetime.fromtimestamp(0, UTC)"),
        ("ovspane.openflow.framing", "import struct, asyncio\nfrom ovspane.placement.flow_rules import FlowRule"),
    ],
)
def test_the_check_allows(module: str, source: str) -> None:
    assert faults(source, module) == []
