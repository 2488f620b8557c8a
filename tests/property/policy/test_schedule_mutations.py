"""Tests must be able to fail: the compiled schedule is broken on purpose, one way at a time, and the random walks must
notice.

Each mutation replaces one piece of _schedule.pyx or of its .pxd files by a plausible mistake. The mutants are built
into a private directory and walk in a process of their own, since a broken one may also crash; only a disagreement with
the plain twin counts as caught.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.extensions import ROOT, build, copy_sources, source_of
from tests.support.patience import LONG

SCHEDULE = "ovspane.policy.state._schedule"
WALKS = 60  # at most; the first that disagrees ends it

#: name -> (what stands there once, the mistake)
MUTATIONS = {
    "intervals_of_blocks_have_no_upper_end": ("    e.most_tilt = inwards(bounds[1])", "    e.most_tilt = ANY"),
    "intervals_of_later_blocks_are_lost": (
        "    if later.most_tilt < e.most_tilt:\n        e.most_tilt = later.most_tilt\n",
        "",
    ),
    "intervals_are_rounded_outwards": ("#define SHRUNK (1.0 - 0x1p-50)", "#define SHRUNK (1.0 + 0x1p-3)"),
    "a_tilt_leaves_intervals_where_they_were": ("        e.most_tilt -= tilt\n", ""),
    "nothing_is_lowered_after_the_end": ("lift(t, b, area(-rate, end - start), 0)", "lift(t, b, 0, 0)"),
    "a_full_fall_is_too_much": ("p.peak - w > p.cap):", "p.peak - w >= p.cap):"),
    "questions_forget_what_is_pending": (
        "if walk(t, p, b.left, low, first, start, end, shift + b.shift, tilt + b.tilt):",
        "if walk(t, p, b.left, low, first, start, end, shift, tilt):",
    ),
    "falls_across_blocks_are_missed": ("    rival(e, e.peak_at, later.dip_at, e.peak - later.dip)\n", ""),
    "a_new_block_starts_where_the_old_one_did": (
        "new.base += area(t.rate_in - b.total[i] - b.offset, b.at[i + 1] - b.at[i])",
        "pass",
    ),
    "joined_blocks_forget_an_offset": ("next.total[i] + next.offset - b.offset", "next.total[i]"),
    "breakpoints_are_not_counted": ("        b.refs[i] += 1\n", "        pass\n"),
    "folding_forgets_the_balance": ("kept - balance(&self.t, now) if self.t.bucket", "kept if self.t.bucket"),
    "starts_are_skipped": ("out = narrow(b - floored(may, r))", "out = narrow(b - floored(may, r)) + span // 2 + 1"),
    "the_cheap_check_forgets_the_fall": ("return t.root.all.fall + taken <= t.cap and", "return taken <= t.cap and"),
    "narrow_blocks_bound_one_side_only": (
        "if ((double)lead < *bound * much)",
        "if (span > 0 && (double)lead < *bound * much)",
    ),
    "narrow_blocks_forget_their_base": ("e.peak = b.base + peak", "e.peak = peak"),
    "rates_are_lowered_too_far": ("narrow(rate + floored(-excess, span))", "narrow(rate + floored(-excess, span)) - 1"),
}


def differs(library: Path) -> str:
    """What the walks say of the extension: "" for no difference, else the last line of the failure."""
    command = [sys.executable, "-m", "tests.support.schedule_walk", "--library", str(library), str(WALKS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=5 * LONG)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or [f"died: {done.returncode}"])[-1]


def test_the_walks_find_nothing_in_the_right_one(tmp_path: Path) -> None:
    copy_sources(tmp_path)
    assert differs(build(SCHEDULE, tmp_path)) == ""


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_walks_notice(name: str, tmp_path: Path) -> None:
    right, wrong = MUTATIONS[name]
    copy_sources(tmp_path)
    sources = {
        path: path.read_text(encoding="utf-8")
        for path in tmp_path.joinpath(source_of(SCHEDULE)).parent.glob("_schedule*")
    }
    assert sum(source.count(right) for source in sources.values()) == 1, "the piece to break is not there once"
    for path, source in sources.items():
        path.write_text(source.replace(right, wrong), encoding="utf-8")
    assert differs(build(SCHEDULE, tmp_path)).startswith("AssertionError")
