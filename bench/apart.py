"""Cases in processes of their own: each starts with a clean memory, and ends by force when its time is over.

`results("bench.compiling:case", "a", "1000", seconds=60)` runs `case("a", "1000")` in a child and yields its results as
they come; `python -m bench.apart MODULE:FUNCTION ARGUMENT …` is that child.
"""

from __future__ import annotations

import importlib
import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bench.results import Result

_TOP = Path(__file__).parents[1]


class OutOfTime(Exception):
    """The case did not end within its budget."""


def results(function: str, *arguments: str, seconds: float) -> Iterator[Result]:
    """The results of a case. Raises OutOfTime after those that came in time, RuntimeError if the case failed."""
    command = [sys.executable, "-m", "bench.apart", function, *arguments]
    deadline = time.monotonic() + seconds
    with subprocess.Popen(command, cwd=_TOP, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0) as child:
        try:
            yield from _read(child, deadline)
        except BaseException:  # also that nobody wants the rest
            child.kill()
            raise
        if child.wait():
            raise RuntimeError(f"{' '.join(command)} ended with {child.returncode}")


def _read(child: subprocess.Popen[bytes], deadline: float) -> Iterator[Result]:
    assert child.stdout is not None
    text = b""
    while True:
        if not select.select([child.stdout], [], [], max(0, deadline - time.monotonic()))[0]:
            raise OutOfTime
        chunk = child.stdout.read(1 << 16)
        if not chunk:
            return
        *lines, text = (text + chunk).split(b"\n")
        yield from (Result(**json.loads(line)) for line in lines)


def _main(function: str, *arguments: str) -> None:
    module, _, name = function.partition(":")
    for result in getattr(importlib.import_module(module), name)(*arguments):
        fields = {field: getattr(result, field) for field in ("name", "value", "unit", "n", "baseline", "note")}
        print(json.dumps(fields), flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
