"""Every trace of this folder, played with the table checked after each line (ovspane(7), section 9).

A trace is named after the section of the language page, and the rule in it, that it covers. What they have to cover
together is tested here too: every code of a refusal that the pure rooms know, and every verb.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovspane.cli import replay_command
from ovspane.lang.parser import parse
from ovspane.lang.replies import Code
from ovspane.lang.statements import Statement
from ovspane.lang.tokens import SyntaxFault
from ovspane.lang.verbs import VERBS
from ovspane.replay import Replay, TraceError, play, read_trace
from ovspane.replay.trace import ExpectedReply, glob_matches

HERE = Path(__file__).parent
TRACES = sorted(HERE.glob("*.trace"))
POLICY = HERE.parents[1] / "ovspane" / "policy"

#: codes that a trace cannot get: what brings each one about, and where it is tested instead
NOT_IN_TRACES = {
    "full": "61 424 rate requests at once",
    "out-of-bounds": "more than 1 152 of the largest reservations at once: "
    "tests/property/policy/test_schedule_twins.py",
    "too-many": "more than 1 000 active requests that meet a flowgroup: tests/unit/policy/test_effort.py",
}


@pytest.mark.parametrize("trace", TRACES, ids=lambda path: path.stem)
def test_trace(trace: Path) -> None:
    text = trace.read_text(encoding="utf-8")
    count, differences = play(text, check_table=True)
    assert not differences, "\n".join(f"{trace.name}:{difference}" for difference in differences)
    assert count >= 4
    assert text.startswith(("#", "//")), "a trace begins with a comment that quotes what it covers"


def test_there_are_enough() -> None:
    assert len(TRACES) >= 60


def _said() -> Iterator[tuple[ExpectedReply, Replay]]:
    for trace in TRACES:
        replay = Replay()
        for entry in read_trace(trace.read_text(encoding="utf-8")):
            if isinstance(entry, ExpectedReply):
                yield entry, replay


def test_the_traces_meet_every_refusal() -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in POLICY.rglob("*.py"))
    known = set(re.findall(r'(?:\bno|\brefused|Refusal)\(\s*"([a-z][a-z-]+)"', source)) | {"contradiction"}
    met = {replay.execute(say.speaker, say.piece).reason_code for say, replay in _said()} - {""}
    assert len(known) > 25
    assert known - met == NOT_IN_TRACES.keys()


def test_the_traces_say_every_verb() -> None:
    said: set[str] = set()
    for say, replay in _said():
        if replay.execute(say.speaker, say.piece).code is not Code.ERR and say.piece.fault is None:
            said.add(re.sub(r"^(?:\s|//.*|#.*|/\*.*?\*/)*", "", say.piece.text).split("(")[0].split()[0].rstrip("."))
    assert {verb.name for verb in VERBS} - said == set()


def test_the_table_is_really_looked_at() -> None:
    replay = Replay(check_table=True)
    for entry in read_trace((HERE / "06_access_three_agree.trace").read_text(encoding="utf-8")):
        if isinstance(entry, ExpectedReply):
            replay.execute(entry.speaker, entry.piece)
    assert replay.checks > 100


# --- the format


@pytest.mark.parametrize(
    ("line", "differs"),
    [
        ("True <- root : ListShares.", False),
        ("False <- root : ListShares.", True),
        ("OK <- root : ListShares.", False),
        ("NO <- root : ListShares.", True),
        ("ERR <- root : ListShares.", True),
        ("NO <- root : Cancel 1.", False),
        ("False <- root : Cancel 1.", False),
        ("True <- root : Cancel 1.", True),
        ("ERR <- root : Cancel 1.", True),
        ("ERR <- root : Cancel.", False),
        ("False <- root : Cancel.", False),
        ("NO <- root : Cancel.", True),
        ('NO "*no request*" <- root : Cancel 1.', False),
        ('NO "no request" <- root : Cancel 1.', True),
        ('NO "*no re?uest*" <- root : Cancel 1.', False),
        ("NO no-such-request <- root : Cancel 1.", False),
        ("NO not-yours <- root : Cancel 1.", True),
        ('OK "principal=root" <- root : Whoami.', False),
        ('OK "principal=Bob" <- root : Whoami.', True),
        ('OK ""<-root:Tick 5.', False),
        ("OK <- root : Whoami. Cancel 1.", True),
        ("OK <- root : Whoami\n\n .", False),
        ("ERR <- root : Whoami\nOK <- root : Whoami.", False),
        ("packet DEFAULT <- (dstPort=80)", False),
        ("packet DENY <- (dstPort=80)", True),
        ("packet ALLOW <- (dstPort=80)", True),
        ("packet DEFAULT guarantee=1Mb <- (dstPort=80)", True),
        ("packet DEFAULT limit=1Mb <- (dstPort=80)", True),
        ("packet DEFAULT <- (user=Nobody)", True),
        ('notice root "*"', True),
    ],
)
def test_a_line_that_is_not_so_differs(line: str, differs: bool) -> None:
    _, differences = play(line)
    assert bool(differences) is differs


@pytest.mark.parametrize(
    "line",
    [
        "True root : ListShares.",
        "true <- root : ListShares.",
        "OK <- root ListShares.",
        "OK <- root :",
        "packet MAYBE <- (dstPort=80)",
        "packet DENY <- (dstPort=)",
        "packet DENY <- (srcHost=10.0.0.1, dstHost=::1)",
        "packet ALLOW limit=fast <- (dstPort=80)",
        "OK no-room <- root : ListShares.",
        "/* no end",
    ],
)
def test_what_is_no_trace_is_refused(line: str) -> None:
    with pytest.raises(TraceError) as fault:
        read_trace("# a comment\n" + line)
    assert fault.value.line == 2


def test_globs() -> None:
    assert glob_matches("a*c", "a\nb[c")
    assert glob_matches("[x].", "[x].")
    assert not glob_matches("[x]", "x")
    assert not glob_matches("a", "ab")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import argparse

    parser = argparse.ArgumentParser()
    replay_command.add_parser(parser.add_subparsers())

    def run(*words: str) -> int:
        options = parser.parse_args(["replay", *words])
        return int(options.run(options))

    same, other = tmp_path / "same.trace", tmp_path / "other.trace"
    same.write_text("True <- root : ListShares.\n")
    other.write_text("True <- root : ListShares.\n\nTrue <- root : Cancel 7.\n")
    assert run(str(same)) == 0
    assert capsys.readouterr().out == f"{same}: 1 lines, 0 differ\n"
    assert run(str(same), str(other)) == 1
    out = capsys.readouterr().out
    assert f"{other}:3: expected True got NO there is no request 7" in out
    assert out.endswith(": Cancel 7.\n" + f"{other}: 2 lines, 1 differ\n")
    assert run(str(tmp_path / "absent")) == 2
    other.write_bytes(b"\xff\xfe")
    assert run(str(other)) == 2
    other.write_text("nonsense\n")
    assert run(str(other)) == 2
    assert f"{other}:1: " in capsys.readouterr().err


def test_the_statements_of_a_trace_read_back() -> None:
    """The line forms above rest on the parser: a trace's statements are those of the language."""
    good = 0
    for say, _ in _said():
        try:
            good += isinstance(parse(say.piece.text), Statement)
        except (SyntaxFault, ValueError):
            assert say.expected in ("ERR", "NO", "False")
    assert good > 500
