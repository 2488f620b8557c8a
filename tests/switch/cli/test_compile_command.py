"""`ovspane compile`: its text loads into a real Open vSwitch as it is, and the switch then decides as the evaluator
says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovspane.cli.compile_command import Compiled, read
from ovspane.cli.main import main
from ovspane.openflow.meters import as_programmed
from ovspane.packets.match import ETH_IPV4, Packet
from ovspane.policy.semantics import evaluate, metered, passes
from ovspane.replay import Replay
from tests.support.bridge_session import BRIDGE, run, session
from tests.support.ovs_dummy import DummyOvs
from tests.support.patience import LONG

PLAIN = """
# a comment
NewShare net for (srcHost=10.0.0.0/29) [reserve <= 100Mb, ratelimit >= 1Mb] on rootShare.
NewShare lab for (srcHost=10.0.0.0/30) [reserve <= 50Mb] on net.   // and a second one on the line:  ignored
Grant net to Alice. Grant lab to bob.
Alice : deny(srcHost=10.0.0.0/29,
             dstPort=80-82) on net from now to +5min.
bob : allow(srcHost=10.0.0.1, dstHost=10.0.0.6) on lab.
bob : reserve(srcHost=10.0.0.2, transport=TCP) = 12Mb on lab.
Alice : ratelimit(srcHost=10.0.0.4/30, dstPort=443) = 2Mb on net.
Alice : ratelimit(srcHost=10.0.0.5) = 5Mb on net.
/* a comment
   : over lines */ deny(transport=UDP, dstPort=53) partial on rootShare from +10s.
"""

TRACE = """
True <- root : NewShare net for (srcHost=10.0.0.0/29) [reserve <= 10Mb] on rootShare.
NO not-holder <- Alice : deny(srcHost=10.0.0.3) on net.
ERR <- Alice : deny everything on net.
True <- root : Grant net to Alice.
True <- Alice : deny(srcHost=10.0.0.3) on net from +5s to +20s.
packet DEFAULT <- (srcHost=10.0.0.3)
True <- root : Tick 10.
packet DENY <- (srcHost=10.0.0.3)
True <- Alice : reserve(srcHost=10.0.0.4) = 5Mb on net.
"""


@pytest.fixture(scope="module")
def ovs() -> Iterator[DummyOvs]:
    with DummyOvs() as switch:
        switch.add_bridge(BRIDGE)
        for number in (1, 2):
            switch.add_port(BRIDGE, f"p{number}", number)
        yield switch


def compiled(text: str, at: int | None = None) -> Compiled:
    made = Compiled(text)
    made.play(at)
    return made


def printed(
    capsys: pytest.CaptureFixture[str], path: Path, text: str, *options: str, status: int = 0
) -> tuple[str, str]:
    path.write_text(text, encoding="utf-8")
    assert main(["compile", str(path), *options]) == status
    out, err = capsys.readouterr()
    return out, err


def load(ovs: DummyOvs, text: str) -> None:
    """As a reader of the output would do it: the add-meter lines of its comments, then add-flows."""
    ovs.ofctl("del-flows", BRIDGE)
    ovs.ofctl("del-meters", BRIDGE)
    for line in re.findall(r"^# (ovs-ofctl .*)$", text, re.M):
        command = line.replace(" BRIDGE ", f" {BRIDGE} ").split()
        ovs.run(*command)
    path = ovs.rundir / "compiled"
    path.write_text(text)
    ovs.run("ovs-ofctl", "-O", "OpenFlow14", "add-flows", BRIDGE, str(path))


async def same_as_pushed(ovs: DummyOvs, made: Compiled) -> None:
    """What was loaded is what the daemon would push, meters too."""
    async with session(ovs) as bridge:
        assert await bridge.meter_table() == {n: as_programmed(meter) for n, meter in made.plan.meters.items()}
        loaded = await bridge.dump()
        assert loaded == made.plan.flows
        await bridge.cleanup()
        await bridge.push(made.plan.flows.values())
        assert await bridge.dump() == loaded


def packets() -> Iterator[Packet]:
    for host in range(9):
        for proto, port in ((6, 79), (6, 80), (17, 82), (6, 83), (17, 443), (17, 53), (1, 0)):
            for dst in (6, 7):
                yield Packet(ETH_IPV4, 10 << 24 | host, 10 << 24 | dst, proto, 1234 if port else 0, port)


def traced(ovs: DummyOvs, made: Compiled, packet: Packet) -> tuple[bool, tuple[int, ...], int]:
    """(passed, limit, guarantee) by ofproto/trace; the rates by the numbers that the output's comments give."""
    names = {6: "tcp", 17: "udp", 1: "icmp"}
    ports = (
        f",{names[packet.proto]}_src={packet.sport},{names[packet.proto]}_dst={packet.dport}" if packet.dport else ""
    )
    src, dst = (f"10.0.0.{address & 255}" for address in (packet.src, packet.dst))
    text = ovs.trace(BRIDGE, f"in_port=1,{names[packet.proto]},nw_src={src},nw_dst={dst}{ports}")
    meters, queue = re.findall(r"^ +meter:(\d+)$", text, re.M), re.search(r"^ +set_queue:(\d+)$", text, re.M)
    return (
        text.rsplit("Datapath actions: ", 1)[1].strip() != "drop",
        tuple(sorted(made.plan.meters[int(meter)].rate for meter in meters)),
        made.plan.guarantees[int(queue[1])].rate if queue else 0,
    )


def expected(replay: Replay, packet: Packet) -> tuple[bool, tuple[int, ...], int]:
    tree = replay.runtime.tree
    verdict = evaluate(tree, packet, {})
    if not passes(verdict):
        return False, (), 0
    return True, tuple(sorted(limit.rate for limit in metered(tree, verdict, {}))), verdict.guarantee


@pytest.mark.parametrize(("at", "dropped_at_least"), [(None, 10), (11, 12), (300, 4)])
def test_the_output_loads_and_the_switch_decides_as_the_evaluator(
    ovs: DummyOvs, capsys: pytest.CaptureFixture[str], tmp_path: Path, at: int | None, dropped_at_least: int
) -> None:
    out, err = printed(capsys, tmp_path / "f", PLAIN, *([] if at is None else ["--at", str(at)]))
    assert err == ""
    made = compiled(PLAIN, at)
    load(ovs, out)
    run(same_as_pushed(ovs, made))
    ovs.ofctl("add-flow", BRIDGE, "table=0,priority=1,actions=output:2")  # the bridge's own forwarding
    replay = Replay()
    for spoken in read(PLAIN):
        replay.execute(spoken.speaker, spoken.piece)
    if at:
        [tick] = read(f"Tick {at}.")
        replay.execute("root", tick.piece)
    outcomes = []
    for packet in packets():
        want = expected(replay, packet)
        assert traced(ovs, made, packet) == want, packet
        outcomes.append(want)
    assert sum(not passed for passed, _, _ in outcomes) >= dropped_at_least
    assert {limits for _, limits, _ in outcomes} == {(), (2_000_000,), (2_000_000, 5_000_000), (5_000_000,)}
    assert {guarantee for _, _, guarantee in outcomes} == {0, 12_000_000}


def test_comments_name_requests_meters_and_queues(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out, _ = printed(capsys, tmp_path / "f", PLAIN)
    meters = dict(re.findall(r"^# request (\d+) meter \d+ rate (\d+)$", out, re.M))
    queues = dict(re.findall(r"^# request (\d+) queue \d+ min-rate (\d+)$", out, re.M))
    assert meters == {"4": "2000000", "5": "5000000"}
    assert queues == {"3": "12000000"}
    named = set(re.findall(r"meter:(\d+)", out)), set(re.findall(r"set_queue:(\d+)", out))
    assert named == (set(re.findall(r" meter (\d+) rate", out)), set(re.findall(r" queue (\d+) min-rate", out)))
    assert "# request 1 deny(srcHost=10.0.0.0/29, dstPort=80-82) on net by Alice from 0 to 300" in out
    assert not re.search(r"^# request 6 ", out, re.M)  # not in effect yet
    for option in (["--at", "11"], ["--at", "9"]):
        later, _ = printed(capsys, tmp_path / "f", PLAIN, *option)
        assert ("# request 6 deny" in later) == (option[1] == "11")


def test_stages_divide_the_flows(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def flows(*options: str) -> set[str]:
        return {line for line in printed(capsys, tmp_path / "f", PLAIN, *options)[0].splitlines() if line[0] != "#"}

    parts = [flows("--stage", stage) for stage in ("access", "limit", "queue", "pipeline")]
    assert all(parts)
    assert set.union(*parts) == flows()
    assert sum(map(len, parts)) == len(flows())
    assert all("drop" in line or "goto_table:101" in line for line in parts[0])
    assert all("meter:" in line for line in parts[1])
    assert all("set_queue:" in line for line in parts[2])
    assert all(line.startswith("cookie=0x70616e6500000000,") for line in parts[3])


NESTED = """
deny(srcHost=10.0.0.0/29, dstPort=80, transport=TCP) on rootShare.
deny(srcHost=10.0.0.0/24) on rootShare.
ratelimit(srcHost=10.0.0.4, dstPort=443) = 2Mb on rootShare.
ratelimit(srcHost=10.0.0.0/28) = 1Mb on rootShare.
"""


def test_hiding_leaves_out_what_another_flow_covers(
    ovs: DummyOvs, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    whole, _ = printed(capsys, tmp_path / "f", NESTED)
    out, _ = printed(capsys, tmp_path / "f", NESTED, "--hiding")
    lines = set(out.splitlines())
    assert {line for line in lines if line[0] != "#"} < set(whole.splitlines())
    assert {line for line in lines if "hidden" in line} == {"# request 1 hidden by 2"}
    assert "hidden" not in whole
    meters = [len(re.findall(r"^# request [0-9]+ meter", text, re.M)) for text in (whole, out)]
    assert meters == [2, 2]  # a wider limit, though it is lower, leaves the narrow one its meter
    document = json.loads(printed(capsys, tmp_path / "f", NESTED, "--hiding", "--format", "json")[0])
    assert [request.get("hidden_by") for request in document["requests"]] == [[2], None, None, None]
    load(ovs, out)


SETS = """
deny(srcHost={10.0.0.1, 10.0.0.3, 10.0.0.5, 10.0.0.8}, dstPort={53, 80, 82, 443}) on rootShare.
ratelimit(srcHost={10.0.0.0, 10.0.0.3, 10.0.0.6}, dstHost={10.0.0.4, 10.0.0.6, 10.0.0.9}) = 2Mb on rootShare.
"""


def test_products_of_sets_are_conjunctive_matches(
    ovs: DummyOvs, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out, err = printed(capsys, tmp_path / "f", SETS)
    assert err == ""
    plain, _ = printed(capsys, tmp_path / "f", SETS, "--no-conjunction")
    counts = [sum("priority=0," not in line and line[0] != "#" for line in text.splitlines()) for text in (plain, out)]
    assert counts == [4 * 4 * 3 + 3 * 3 + 1, 4 + 4 * 3 + 1 + 3 + 3 + 1 + 1]  # and the entry
    assert "conjunction(" not in plain
    [limiting] = re.findall(r"conj_id=(\d+),actions=meter:1000001,goto_table:141$", out, re.M)
    assert len(re.findall(rf"actions=conjunction\({limiting},[12]/2\)$", out, re.M)) == 6
    limits, _ = printed(capsys, tmp_path / "f", SETS, "--stage", "limit")
    assert sum(line[0] != "#" for line in limits.splitlines()) == 7
    document = json.loads(printed(capsys, tmp_path / "f", SETS, "--format", "json")[0])
    assert {"conj_id": limiting} in [rule["match"] for table in document["tables"] for rule in table["rules"]]
    made = compiled(SETS)
    load(ovs, out)
    run(same_as_pushed(ovs, made))
    ovs.ofctl("add-flow", BRIDGE, "table=0,priority=1,actions=output:2")
    replay = Replay()
    for spoken in read(SETS):
        replay.execute(spoken.speaker, spoken.piece)
    outcomes = set()
    for packet in packets():
        want = expected(replay, packet)
        assert traced(ovs, made, packet) == want, packet
        outcomes.add(want)
    assert outcomes == {(False, (), 0), (True, (), 0), (True, (2_000_000,), 0)}


def test_json_has_the_same_flows(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text, _ = printed(capsys, tmp_path / "f", PLAIN)
    document = json.loads(printed(capsys, tmp_path / "f", PLAIN, "--format", "json")[0])
    lines = {
        ",".join(
            [f"cookie={rule['cookie']:#x},table={table['table']},priority={rule['priority']}"]
            + [f"{name}={value}" if value else name for name, value in rule["match"].items()]
            + [f"actions={rule['actions']}"]
        )
        for table in document["tables"]
        for rule in table["rules"]
    }
    assert lines == {line for line in text.splitlines() if line[0] != "#"}
    assert [(meter["request"], meter["rate"]) for meter in document["meters"]] == [(4, 2_000_000), (5, 5_000_000)]
    assert [(queue["request"], queue["min_rate"]) for queue in document["queues"]] == [(3, 12_000_000)]
    assert [request["id"] for request in document["requests"]] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("at", "denied", "queued"), [("0", False, False), ("9", True, False), ("10", True, True), ("20", False, True)]
)
def test_a_trace_is_said_up_to_the_instant(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, at: str, denied: bool, queued: bool
) -> None:
    out, err = printed(capsys, tmp_path / "f", TRACE, "--at", at)
    assert err == ""  # what the trace expects is no complaint
    assert (("nw_src=10.0.0.3" in out), ("set_queue" in out)) == (denied, queued)
    assert f"at {at}." in out.splitlines()[0]


def test_every_written_trace_compiles(capsys: pytest.CaptureFixture[str]) -> None:
    traces = sorted(Path(__file__).parents[2].joinpath("traces").glob("*.trace"))
    assert len(traces) > 50
    for trace in traces:
        assert main(["compile", str(trace)]) == 0, trace
        out, err = capsys.readouterr()
        assert err == "" and "actions=goto_table:100" in out, trace


def test_refusals_are_said_and_the_rest_is_printed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out, err = printed(capsys, tmp_path / "f", "deny(srcHost=10.0.0.1) on rootShare.\ncarol : deny() on rootShare.\n")
    assert "nw_src=10.0.0.1" in out
    assert re.fullmatch(
        r"ovspane compile: .*/f:2: NO carol does not hold share rootShare: deny\(\) on rootShare\.\n", err
    )
    out, err = printed(capsys, tmp_path / "f", "True <- bob : deny() on rootShare.")
    assert "/f:1: NO bob does not hold share rootShare (the trace expects True)" in err


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("deny(srcHost=10.0.0.1) on rootShare.\n\ndenie() on rootShare.", "/f:3: ERR 1:1 "),
        ("Alice : deny(srcHost=10.0.0.1) on rootShare", "/f:1: ERR "),
        ("deny() on rootShare.\nroot :\nroot : allow(", "/f:3: ERR "),
        ("True <- root : denie() on rootShare.", "/f:1: ERR 1:1 "),
        ("True <- root : Tick 1.\nhello", "/f:2: neither "),
        ("/* never closed\ndeny() on rootShare.", "/f:1: the closing */"),
    ],
)
def test_a_bad_line_prints_nothing_and_ends_with_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, complaint: str
) -> None:
    out, err = printed(capsys, tmp_path / "f", text, status=2)
    assert out == ""
    assert complaint in err
    assert len(err.splitlines()) == 1


def test_files_that_cannot_be_read(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["compile", str(tmp_path / "nowhere")]) == 2
    assert "nowhere: No such file" in capsys.readouterr().err
    (tmp_path / "f").write_bytes(b"deny() on rootShare.\xff")
    assert main(["compile", str(tmp_path / "f")]) == 2
    assert "not UTF-8 at byte 20" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["compile", "--at", "-1", "f"])
    assert ended.value.code == 2


def test_standard_input_as_a_process() -> None:
    command = [sys.executable, "-m", "ovspane.cli.main", "compile", "-", "--stage", "access"]
    text = "deny(srcHost=fd00::/8) on rootShare."
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=LONG, check=True)
    assert "table=100,priority=1,ipv6,ipv6_src=fd00::/8,actions=drop" in done.stdout
