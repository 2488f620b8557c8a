"""The client commands as processes, against a small real server that speaks the protocol with the real parser."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovspane.cli.show_command import draw, usage
from ovspane.lang import statements as st
from ovspane.lang.parser import Contradiction, Splitter, parse
from ovspane.lang.replies import Notice, Reply, err, listing, no, ok
from tests.support.patience import LONG, PATIENCE

SHARES = [
    dict(name="rootShare", parent=None, flowgroup="(*)", privileges="", reserve_max=None, reserved_now=8_000_000,
         requests=0, holders="root", everybody=False),
    dict(name="aBW", parent="rootShare", flowgroup="(user=Alice)", privileges="", reserve_max=10_000_000,
         reserved_now=8_000_000, requests=2, holders="Alice,root", everybody=False),
    dict(name="deep", parent="aBW", flowgroup="(user=Alice, dstPort=80)", privileges="", reserve_max=0, reserved_now=0,
         requests=1, holders="", everybody=True),
]  # fmt: skip


class Server:
    """Parses and answers: Cancel is refused, Subscribe is followed by a notice, Tick 666 ends the connection."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.loop = asyncio.new_event_loop()
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        assert self.ready.wait(PATIENCE)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(asyncio.start_unix_server(self._session, str(self.path)))
        self.ready.set()
        self.loop.run_forever()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_complete(asyncio.sleep(0.01))
        self.loop.close()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        splitter, speaker, as_json = Splitter(), "tester", False
        while data := await reader.read(4096):
            for piece in splitter.feed(data) + (splitter.settle() if splitter.undecided else []):
                said: st.Statement | None = None
                if piece.fault is not None:
                    reply: Reply = err(1, 1, piece.fault.expected)
                else:
                    try:
                        said = parse(piece.text)
                        reply = answer(said, speaker)
                    except Contradiction as reason:
                        reply = no("contradiction", str(reason))
                    except Exception as fault:  # noqa: BLE001  # a SyntaxFault; anything else fails the test that sees it
                        reply = err(
                            getattr(fault, "line", 0), getattr(fault, "column", 0), getattr(fault, "expected", "?")
                        )
                if said == st.Tick(666):
                    writer.close()
                    return
                if isinstance(said, st.Format):
                    as_json = said.name == "json"
                if isinstance(said, st.As):
                    speaker = said.name
                writer.write((reply.to_json() if as_json else reply.to_text()).encode())
                if isinstance(said, st.Subscribe):
                    notice = Notice("started", "request 1")
                    writer.write((notice.to_json() if as_json else notice.to_text()).encode())
            await writer.drain()


def answer(said: st.Statement, speaker: str) -> Reply:
    match said:
        case st.Whoami():
            return ok(principal=speaker)
        case st.ListShares():
            return listing([str(item["name"]) for item in SHARES], SHARES)  # type: ignore[arg-type]
        case st.Cancel():
            return no("unknown", "there is no such request")
        case _:
            return ok()


@pytest.fixture()
def socket(tmp_path: Path) -> Iterator[str]:
    server = Server(tmp_path / "s")
    yield str(server.path)
    server.stop()


def ovspane(*arguments: str, given: str | bytes = "", env: dict[str, str] | None = None) -> tuple[int, str, str]:
    data = given.encode() if isinstance(given, str) else given
    done = subprocess.run(
        [sys.executable, "-m", "ovspane.cli.main", *arguments],
        input=data,
        capture_output=True,
        timeout=LONG,
        env={**os.environ, **(env or {})},
        check=False,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_send_prints_replies_and_says_the_worst(socket: str) -> None:
    assert ovspane("send", "--socket", socket, "Whoami.") == (0, "OK principal=tester\n", "")
    assert ovspane("send", "--socket", socket, "Whoami. As Bob.Whoami")[:2] == (
        0,
        "OK principal=tester\nOK\nOK principal=Bob\n",
    )
    assert ovspane("send", "--socket", socket, "Whoami", "Cancel 5") == (
        2,
        "OK principal=tester\nNO there is no such request\n",
        "",
    )
    code, out, _ = ovspane("send", "--socket", socket, "Cancel 5.", "Frob.", "Whoami.")
    assert code == 1
    assert [line[:3] for line in out.splitlines()] == ["NO ", "ERR", "OK "]


def test_a_contradiction_is_a_refusal(socket: str) -> None:
    code, out, _ = ovspane("send", "--socket", socket, "deny(user=A, user=B) on s")
    assert (code, out) == (2, "NO no packet is of two users, A and B\n")


def test_send_reads_listings_notices_and_json(socket: str) -> None:
    assert ovspane("send", "--socket", socket, "ListShares. Whoami.")[1].splitlines() == [
        "OK n=3",
        "rootShare",
        "aBW",
        "deep",
        "OK principal=tester",
    ]
    assert "* started request 1" in ovspane("send", "--socket", socket, "Subscribe. Whoami.")[1]
    out = ovspane("send", "--socket", socket, "--format", "json", "Cancel 1.", "ListShares.")[1].splitlines()
    assert json.loads(out[0]) == {"reply": "NO", "code": "unknown", "reason": "there is no such request"}
    assert json.loads(out[1])["items"] == SHARES
    out = ovspane("send", "--socket", socket, "Whoami. Format json. Whoami. Format text. Whoami.")[1].splitlines()
    assert json.loads(out[2])["principal"] == "tester"
    assert out[4] == "OK principal=tester"


def test_send_reads_standard_input(socket: str) -> None:
    assert ovspane("send", given="Whoami. # who\n Tick 5", env={"OVSPANE_SOCKET": socket}) == (
        0,
        "OK principal=tester\nOK\n",
        "",
    )
    assert ovspane("send", "--socket", socket, given="") == (0, "", "")
    code, out, _ = ovspane("send", "--socket", socket, given=b"\xff\xfe. Whoami.")
    assert code == 1
    assert out == "ERR 1:1 UTF-8 text\nOK principal=tester\n"


def test_what_no_dot_can_end_is_an_error(socket: str) -> None:
    code, out, _ = ovspane("send", "--socket", socket, "Tick /* 5.")
    assert code == 1
    assert out.startswith("ERR ")


def test_thousands_of_statements_are_pipelined(socket: str) -> None:
    code, out, _ = ovspane("send", "--socket", socket, given="ListShares.\n" * 20_000)
    assert code == 0
    assert len(out.splitlines()) == 80_000


def test_an_answer_comes_before_the_input_ends(socket: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "ovspane.cli.main", "send", "--socket", socket],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"Tick 5.\n")
        process.stdin.flush()
        assert select.select([process.stdout], [], [], 20)[0]
        assert process.stdout.readline() == b"OK\n"
        process.stdin.close()
        assert process.wait(PATIENCE) == 0


def test_no_connection_is_said(tmp_path: Path, socket: str) -> None:
    code, out, complaint = ovspane("send", "--socket", str(tmp_path / "nothing"), "Whoami.")
    assert (code, out) == (1, "")
    assert "No such file" in complaint
    code, out, complaint = ovspane("send", "--socket", socket, "Whoami. Tick 666. Whoami.")
    assert (code, out) == (1, "OK principal=tester\n")
    assert "closed the connection" in complaint
    assert ovspane("show", "--socket", str(tmp_path / "nothing"))[0] == 1
    assert ovspane("shell", "--socket", str(tmp_path / "nothing"))[0] == 1


def test_show_draws_the_tree(socket: str) -> None:
    code, out, _ = ovspane("show", "--socket", socket)
    assert code == 0
    root, bandwidth, deep = out.splitlines()
    assert root.startswith("rootShare")
    assert "8Mb of unlimited" in root
    assert bandwidth.startswith("└─ aBW")
    assert "[████████··] 8Mb of 10Mb (80%)" in bandwidth
    assert "2 requests" in bandwidth
    assert "held by Alice, root" in bandwidth
    assert deep.startswith("   └─ deep")
    assert "no reservations" in deep
    assert "held by everybody" in deep
    assert json.loads(ovspane("show", "--socket", socket, "--format", "json")[1]) == SHARES


def test_draw_takes_any_tree() -> None:
    deep = [dict(name=f"s{i}", parent=f"s{i - 1}" if i else "hidden") for i in range(3000)]
    assert len(draw(deep)) == 3000  # no recursion
    assert draw([]) == ["no shares"]
    assert "█·········" in usage(dict(reserve_max=10**9, reserved_now=1))


def test_shell_without_a_terminal(socket: str) -> None:
    code, out, complaint = ovspane("shell", "--socket", socket, given="help Grant\nTick\n 5.\nWhoami.")
    assert (code, complaint) == (0, "")
    assert "Grant SHARE to PRINCIPAL." in out
    assert out.splitlines()[-2:] == ["OK", "OK principal=tester"]
    assert ovspane("shell", "--socket", socket, given="quit\nWhoami.\n")[1] == ""


def test_shell_runs_commands_that_cannot_read_its_input(socket: str) -> None:
    script = "!echo a$((20 + 1)); cat; false\nWhoami.\nTick\n!echo in a statement\n5."
    code, out, _ = ovspane("shell", "--socket", socket, given=script)
    assert code == 0
    assert out.splitlines()[:2] == ["a21", "OK principal=tester"]
    assert "\nin a statement" not in out  # a statement was begun: the line belongs to it


def test_shell_on_a_terminal_prompts_completes_and_shows_notices(socket: str, tmp_path: Path) -> None:
    parent, child = pty.openpty()
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path), "TERM": "dumb", "INPUTRC": "/dev/null"}
    process = subprocess.Popen(
        [sys.executable, "-m", "ovspane.cli.main", "shell", "--socket", socket],
        stdin=child,
        stdout=child,
        stderr=child,
        env=environment,
        close_fds=True,
    )
    os.close(child)
    seen = ""

    def expect(text: str) -> None:
        nonlocal seen
        until = time.monotonic() + PATIENCE
        while text not in seen:
            assert select.select([parent], [], [], max(0.0, until - time.monotonic()))[0], (text, seen)
            seen += os.read(parent, 4096).decode()
        seen = seen[seen.index(text) + len(text) :]

    def type_in(text: str) -> None:
        os.write(parent, text.encode())

    try:
        expect("tester> ")
        type_in("GetSch\tro\t.\n")
        expect("GetSchedule rootShare")
        expect("OK")
        expect("tester> ")
        type_in("Grant aB\t")
        expect("Grant aBW")
        type_in("\n")
        expect("... ")
        type_in("to Bob. As Bob.\n")
        expect("OK")
        expect("Bob> ")
        type_in("Subscribe.\n")
        expect("* started request 1")
        expect("Bob> ")
        type_in("\x04")
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
        os.close(parent)
    assert "GetSchedule" in (tmp_path / "ovspane" / "history").read_text()


def test_the_command_line_lists_its_commands() -> None:
    code, out, _ = ovspane("--help")
    assert code == 0
    assert {"send", "shell", "show"} <= set(out.split())
    assert ovspane("frobnicate")[0] == 2
