"""The rooms of ovspane: which module is in which, and who imports whom, read from the sources.

    python -m tools.rooms            modules at the top level, rooms, floors, arrows, and the length of files and
                                     functions
    python -m tools.rooms --arrows   each room with the rooms that it imports, from the top floor down
    python -m tools.rooms --modules  each module with the first sentence of its header, room by room

A room is a package below ovspane/, a folder below ovspane/policy/, or a module at the top level.
tests/unit/test_layers.py holds the rooms against its table. Imports are those of the whole module, inside functions and
under TYPE_CHECKING too, and `cimport`s of Cython sources. Nothing is imported or run.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from statistics import median

PACKAGE = Path(__file__).parents[1] / "ovspane"
CYTHON = (".pyx", ".pxd")
_IMPORT = re.compile(r"^\s*(?:from\s+([\w.]+)\s+c?import\s+(.*)|c?import\s+([\w.]+))")


def modules(package: Path = PACKAGE) -> list[Path]:
    """Every source file: Python, Cython, and the declarations of Cython."""
    return sorted(path for suffix in (".py", *CYTHON) for path in package.rglob(f"*{suffix}"))


def dotted_name(path: Path, package: Path = PACKAGE) -> str:
    """The module that a file is, as `ovspane.policy.runtime`."""
    parts = ["ovspane", *path.relative_to(package).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """The room of a dotted module name: "policy.state.state", "network", "config"; "" for the package itself."""
    parts = module.split(".")[1:]
    if not parts:
        return ""
    if parts[0].startswith("_fastmatch"):
        return "_fastmatch"
    if parts[0] == "policy" and len(parts) > 1 and (PACKAGE / "policy" / parts[1]).is_dir():
        return f"policy.{parts[1]}"
    return parts[0]


def imports(source: str, module: str, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything that a Python module imports anywhere; `from a import b` gives a.b."""
    for node in ast.walk(ast.parse(source)):
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


def cython_imports(source: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of the imports and cimports of a Cython source; of `from a cimport b, c` only a."""
    for number, line in enumerate(source.splitlines(), 1):
        if found := _IMPORT.match(line):
            yield number, found[1] or found[3]


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """The imports of a source file, Python or Cython: (line, dotted name)."""
    source = path.read_text(encoding="utf-8")
    if path.suffix in CYTHON:
        return cython_imports(source)
    return imports(source, dotted_name(path), path.name == "__init__.py")


def arrows(package: Path = PACKAGE) -> dict[str, set[str]]:
    """Room -> the other rooms that its modules import."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in modules(package):
        room = room_of(dotted_name(path, package))
        found[room].update(room_of(name) for _, name in imports_of(path) if name.split(".")[0] == "ovspane")
        found[room] -= {room, ""}
    return {room: others for room, others in found.items() if room}


def floors(graph: Mapping[str, set[str]]) -> dict[str, int]:
    """Room -> its floor: 1 for those that import no other, else one more than the highest that it imports. Raises
    ValueError where rooms import each other in a circle."""
    under: list[str] = []

    @cache
    def floor(room: str) -> int:
        if room in under:
            raise ValueError(f"a circle: {' -> '.join([*under[under.index(room) :], room])}")
        under.append(room)
        above = 1 + max((floor(other) for other in graph.get(room, ())), default=0)
        under.pop()
        return above

    return {room: floor(room) for room in graph}


def _header(path: Path) -> str:
    """The first sentence of a module's docstring, on one line; Cython's too."""
    found = re.search(r'"""(.*?)"""', path.read_text(encoding="utf-8"), re.S)
    text = " ".join(found[1].split("\n\n")[0].split()) if found else ""
    return re.split(r"(?<=\.) (?=[A-Z])", text)[0]


def described(package: Path = PACKAGE) -> Iterator[str]:
    """Each module with what its header says it is for, a line each, the rooms from the top floor down."""
    floor = floors(arrows(package))
    found = [path for path in modules(package) if path.suffix != ".pxd" and path.name != "__init__.py"]
    named = [(room_of(dotted_name(path, package)), path) for path in found]
    for room, path in sorted(named, key=lambda one: (-floor[one[0]], one)):
        yield f"{floor[room]:2} {path.relative_to(package.parent)}: {_header(path)}"


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def _length(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _methods(node: ast.ClassDef) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [one for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]


def _public(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Classes, functions and methods that a reader from outside sees."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from (one for one in _methods(node) if not one.name.startswith("_"))


def _in_brackets(text: str) -> str:
    return f" ({text})" if text else ""


def figures(package: Path = PACKAGE) -> Iterator[str]:
    """What the house measures, a line each."""
    graph = arrows(package)
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in package.rglob("*.py")}
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in trees}
    top = sorted(
        {path.name.split(".")[0] for path in package.iterdir() if path.suffix in (".py", ".pyx")} - {"__init__"}
    )
    yield f"modules at the top level: {len(top)} ({', '.join(top)})"
    yield f"rooms: {len(graph)}; floors: {max(floors(graph).values())}; arrows: {sum(map(len, graph.values()))}"
    long = sorted((path for path in lengths if lengths[path] > 400), key=lambda path: -lengths[path])
    named = ", ".join(f"{path.relative_to(package)} {lengths[path]}" for path in long)
    yield f"Python files: {len(trees)}; lines: median {median(lengths.values()):.0f}, max {max(lengths.values())}"
    yield f"files over 400 lines: {len(long)}{_in_brackets(named)}"
    functions = [_length(node) for tree in trees.values() for node in _functions(tree)]
    yield f"functions: {len(functions)}; lines: median {median(functions):.0f}, max {max(functions)}"
    classes = [
        (len(_methods(node)), node.name)
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    ]
    large = sorted((one for one in classes if one[0] > 25), reverse=True)
    named = ", ".join(f"{name} {n}" for n, name in large)
    yield f"classes: {len(classes)}; over 25 methods: {len(large)}{_in_brackets(named)}"
    names: dict[str, int] = defaultdict(int)
    for tree in trees.values():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                names[node.name] += 1
    twice = sorted(name for name, n in names.items() if n > 1)
    yield f"public class names that exist more than once: {len(twice)}{_in_brackets(', '.join(twice))}"
    public = [node for tree in trees.values() for node in _public(tree)]
    documented = sum(ast.get_docstring(node) is not None for node in public)
    yield f"public names with a docstring: {documented} of {len(public)} ({100 * documented / len(public):.0f} %)"


def main() -> None:
    """As a program: see the module's text."""
    options = argparse.ArgumentParser(description="The rooms of ovspane, read from its sources.")
    options.add_argument("--arrows", action="store_true", help="each room with the rooms that it imports")
    options.add_argument("--modules", action="store_true", help="each module with the first sentence of its header")
    chosen = options.parse_args()
    if chosen.modules:
        print(*described(), sep="\n")
    elif chosen.arrows:
        graph = arrows()
        floor = floors(graph)
        for room in sorted(graph, key=lambda room: (-floor[room], room)):
            print(f"{floor[room]:2} {room}: {', '.join(sorted(graph[room], key=lambda other: (-floor[other], other)))}")
    else:
        print(*figures(), sep="\n")


if __name__ == "__main__":
    main()
