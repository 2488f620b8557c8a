"""Tests must be able to fail: the compiled compiler is broken on purpose, one way at a time, and the walks must notice.

Each mutation replaces one piece of the sources by a plausible mistake. The mutants are built into a private directory
and walk in a process of their own, since a broken one may also crash; only a disagreement with the plain twin or with
the definition counts.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.extensions import ROOT, build, copy_sources
from tests.support.patience import LONG

COMPILER = "ovspane.policy.compiler"
SEEDS = 60  # at most; the first that disagrees ends it

#: name -> (file, what stands there once, the mistake)
MUTATIONS = {
    "covered_by_another_node": (
        "_fastaccess.pyx",
        "if not self.allows.used or node.index.covers(match):",
        "if not self.allows.used or node.index.meets(match):",
    ),
    "what_the_deny_meets_twice_is_lost": (
        "_fastaccess.pyx",
        "if self.has(number, node.number) and not node.index.meets(self.matches.at[self.entries.at[one].match].words):",
        "if self.has(number, node.number):",
    ),
    "a_higher_level_brings_nothing": (
        "_fastaccess.pyx",
        "            self.add_beside(self.matches.at[self.entries.at[entry].match].words, place, level, node.depth)\n",
        "            self.sort_hits()\n",
    ),
    "the_deepest_hit_goes_with_another": (
        "_fastaccess.pyx",
        "if other is not node and other.depth <= level:",
        "if other is not node and other.depth < level:",
    ),
    "class_numbers_keep_their_old_flags": (
        "_fastaccess.pyx",
        "if node is not None and number < node.known:",
        "if False:",
    ),
    "the_own_node_is_above": ("_fastentries.pxd", "    if depth >= tree.at[node].depth:\n        return False\n", ""),
    "moved_nodes_keep_their_exceptions": (
        "_fastaccess.pyx",
        "entry = self.classes[i].first if how == 3 else NIL",
        "entry = NIL",
    ),
    "levels_are_not_worked_out_again": (
        "_fastaccess.pyx",
        "                    self.classes[i].stages = -1\n",
        "                    pass\n",
    ),
    "clashes_are_not_counted": ("_fastaccess.pyx", "        self.count_clashes(number, 1)\n", ""),
    "a_check_settles": (
        "_fastcompile.pyx",
        "        self.chosen = stages\n",
        "        self.chosen = stages\n        self.access.settle(stages)\n",
    ),
    "the_latest_claim_owns": ("_fastclaims.pxd", "if second < first or", "if second > first or"),
    "claims_below_a_root_that_goes_are_lost": (
        "_fastclaims.pxd",
        "    rest = melded_children(flows, entries, claim.child)\n",
        "    rest = claim.child\n",
    ),
    "a_new_slot_is_no_change": (
        "_fastcompile.pyx",
        "(was.slot != now.slot or was.rate != now.rate)",
        "was.rate != now.rate",
    ),
    "moved_ranks_are_not_told": (
        "_fastcompile.pyx",
        "        self.ranks[rank].label = label\n",
        "        self.ranks[rank].label = label\n        return 0\n",
    ),
    "drops_come_first": ("_fastcompile.pyx", "return (*added, *added_drops),", "return (*added_drops, *added),"),
    "wide_matches_are_cut": (
        "_fastcompile.pyx",
        "                unpack_match(value, mask, words)\n            entry",
        "                unpack_match(value % 2**256, mask % 2**256, words)\n            entry",
    ),
}


#: puts extensions that are somewhere else in the place of the right ones, before anything imports those
WALK = """
import sys
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
seeds, *libraries = sys.argv[1:]
for name, path in (one.split("=") for one in libraries):
    loader = ExtensionFileLoader(name, path)
    sys.modules[name] = module_from_spec(spec_from_loader(name, loader))
    loader.exec_module(sys.modules[name])
from tests.support.compile_walk import main
main([seeds])
"""


def differs(libraries: dict[str, Path]) -> str:
    """What the walks say of these extensions: "" for no difference, else the last line of the failure."""
    command = [
        sys.executable,
        "-c",
        WALK,
        str(SEEDS),
        *(f"{COMPILER}.{name}={path}" for name, path in libraries.items()),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=10 * LONG)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or [f"died: {done.returncode}"])[-1]


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_walks_notice(name: str, tmp_path: Path) -> None:
    file, right, wrong = MUTATIONS[name]
    copy_sources(tmp_path)
    path = tmp_path / COMPILER.replace(".", "/") / file
    source = path.read_text(encoding="utf-8")
    assert source.count(right) == 1, "the piece to break is not there once"
    path.write_text(source.replace(right, wrong), encoding="utf-8")
    modules = ["_fastcompile"] if file in ("_fastcompile.pyx", "_fastclaims.pxd") else ["_fastaccess"]
    if file == "_fastentries.pxd":
        modules = ["_fastaccess", "_fastcompile"]
    found = differs({module: build(f"{COMPILER}.{module}", tmp_path) for module in modules})
    assert found.startswith(("AssertionError", "died: -"))  # what is broken may also bring the process down
