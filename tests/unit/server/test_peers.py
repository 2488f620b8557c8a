"""Who speaks: what the kernel says of a Unix peer (SO_PEERCRED, SO_PEERGROUPS), and which principal that is."""

import asyncio
import os
import pwd
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovspane.lang.parser import parse
from ovspane.lang.statements import Binding
from ovspane.policy.model import tree
from ovspane.policy.state.authority import Grant, Right
from ovspane.policy.state.shares import Principal
from ovspane.policy.state.state import Put, State
from ovspane.server.accepting import ConnectionCaps
from ovspane.server.peers import account_name, principal_of, principal_of_certificate, unix_peer
from tests.support.patience import PATIENCE
from tests.support.serving import Client, Served, serving

ROOT = os.geteuid() == 0


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A directory that every account of the machine may enter (pytest's are root's alone)."""
    path = Path(tempfile.mkdtemp(prefix="ovspane-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def state_with(*principals: Principal) -> State:
    state = State()
    for principal in principals:
        state.apply(Put(principal))
    return state


def bound(name: str, *bindings: str) -> Principal:
    return Principal(name, tuple(Binding(*text.split(" ", 1)) for text in bindings))


@pytest.mark.parametrize(
    ("uid", "gids", "account", "principal"),
    [
        (0, (0,), "root", "root"),
        (0, (700,), "alice", "root"),
        (1001, (1001,), "someone", "Bound"),  # by uid
        (1001, (700,), "alice", "Bound"),  # uid before gid and name
        (5, (700, 701), "alice", "Staff"),  # by its own group
        (5, (9, 700, 701), "alice", "Staff"),  # by a supplementary one, the lowest first
        (5, (701, 700), "alice", "Apprentice"),  # its own before the lower
        (5, (702,), "x", "Aa"),  # two are bound to it: the first by name
        (5, (9,), "alice", "alice"),  # named like the account
        (5, (9,), "Bound", "guest:5"),  # that one is bound to another uid
        (5, (9,), "holder", "holder"),  # known because a share is granted to it
        (5, (9,), "root", "guest:5"),  # an account of that name with another uid
        (5, (9,), "everybody", "guest:5"),
        (5, (9,), "nobody-we-know", "guest:5"),
        (5, (), None, "guest:5"),
        (4294967294, (), None, "guest:4294967294"),
    ],
)
def test_principal_of(uid: int, gids: tuple[int, ...], account: str | None, principal: str) -> None:
    state = state_with(
        bound("Bound", "uid 1001"),
        bound("Staff", "gid 700"),
        bound("Apprentice", "gid 701"),
        bound("Zz", "gid 702"),
        bound("Aa", "gid 702"),
        bound("alice"),
        bound("everybody"),
    )
    state.apply(Put(Grant(tree.ROOT, "holder", "root", Right.ADMINISTRATOR)))
    assert principal_of(state, uid, gids, account) == principal


@pytest.mark.parametrize(
    ("name", "principal"),
    [
        ("client.example.org", "Alice"),
        ("Bob", "guest:cert:Bob"),  # the principal of that name is the Unix account
        ("Alice", "guest:cert:Alice"),  # she has a certificate of another name
        ("root", "guest:cert:root"),
        ("1007", "guest:cert:1007"),  # the guest of uid 1007 is another one
        ("some\none", "guest:cert:some~a~one"),
        ("some_one", "guest:cert:some_one"),
        ("everybody", "guest:cert:everybody"),
    ],
)
def test_principal_of_certificate(name: str, principal: str) -> None:
    state = state_with(bound("Alice", "cert client.example.org"), bound("Bob"))
    assert principal_of_certificate(state, name) == principal


NAMES = st.text(st.characters(exclude_categories=()), min_size=1, max_size=80) | st.sampled_from(
    ["Alice", "Bob", "1007", "0", "root", "guest:1007", "cert:1007", "a~", "a~7e~", "x" * 64, "x" * 65, "x" * 66]
)


@given(one=NAMES, other=NAMES, uid=st.integers(1, 2**32 - 2))
def test_two_identities_never_share_a_name(one: str, other: str, uid: int) -> None:
    """Whatever a certificate is called: it is no account, no other certificate, and no principal that it is not bound
    to; and its name is one word of one line."""
    state = state_with(bound("Alice"), bound("Bob", "cert Bob"), bound("1007"))
    mine, theirs = principal_of_certificate(state, one), principal_of_certificate(state, other)
    assert (mine == theirs) == (one == other)
    assert mine != principal_of(state, uid, (), one)
    assert (mine == "Bob") == (one == "Bob") and mine not in ("Alice", "1007", "root", "everybody")
    assert mine.isprintable() and len(mine.split()) == 1 and len(mine) < 100


def test_the_kernel_says_who_we_are() -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with here, there:
        peer = unix_peer(here)
    assert (peer.uid, peer.pid) == (os.geteuid(), os.getpid())
    assert peer.gids[0] == os.getegid()
    assert set(peer.gids) == {os.getegid(), *os.getgroups()}
    assert account_name(0) == "root"
    assert account_name(4294967294) is None


async def client_of(path: Path, uid: int, gid: int, groups: list[int]) -> Client:
    """A client whose connection was made by another process under that account: it is that one whom the kernel
    names."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups(groups)
            os.setgid(gid)
            os.setuid(uid)
            connection.connect(str(path))
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    return Client(*await asyncio.open_unix_connection(sock=connection))


@pytest.mark.skipif(
    not ROOT, reason="needs root to be others; test_our_own_account is the same with the one account there is"
)
def test_other_accounts(open_path: Path) -> None:
    nobody = pwd.getpwnam("nobody")

    async def main() -> None:
        async with serving(open_path) as there:
            root = await there.client()
            stranger = await client_of(there.path, 1234, 1234, [])
            other = await client_of(there.path, nobody.pw_uid, nobody.pw_gid, [])
            member = await client_of(there.path, 4321, 4321, [77, 7700])
            assert await root.ask("Whoami.") == "OK principal=root"
            assert await stranger.ask("Whoami.") == "OK principal=guest:1234"
            assert await other.ask("Whoami.") == f"OK principal=guest:{nobody.pw_uid}"
            assert await member.ask("Whoami.") == "OK principal=guest:4321"
            for refused in (
                "As Alice.",
                "AddUser Eve.",
                "NewShare s for (*) [] on rootShare.",
                "deny(*) on rootShare.",
            ):
                assert (await stranger.ask(refused)).startswith("NO "), refused
            assert not there.service.committed.principals
            assert not there.service.committed.requests

            # A binding counts at once, on connections that are there; so does its end.
            assert await root.ask("AddUser Alice as uid 1234.") == "OK"
            assert await stranger.ask("Whoami.") == "OK principal=Alice"
            assert await root.ask("AddUser nobody.") == "OK"
            assert await other.ask("Whoami.") == "OK principal=nobody"
            assert await root.ask("AddUser Staff as gid 7700.") == "OK"
            assert await member.ask("Whoami.") == "OK principal=Staff"
            assert await root.ask("NewShare a for (*) [deny = True] on rootShare.") == "OK"
            assert await stranger.ask("deny(dstPort=1) on a.") == "NO Alice does not hold share a"
            assert await root.ask("Grant a to Alice.") == "OK"
            assert await stranger.ask("deny(dstPort=1) on a.") == "OK id=1"
            assert (await stranger.ask("As Staff.")).startswith("NO only root")

            # A revoke counts at once on all of them, also for what rested on it.
            assert await stranger.ask("NewShare sub for (dstPort=1) [] on a.") == "OK"
            assert await stranger.ask("Grant sub to Staff.") == "OK note=user-unknown"
            assert await member.ask("deny(dstPort=1, srcPort=1) on sub.") == "OK id=2"
            assert await root.ask("Revoke a from Alice.") == "OK running=2 until=forever unheld=1"
            assert await member.ask("deny(dstPort=1, srcPort=2) on sub.") == "NO Staff does not hold share sub"
            assert await stranger.ask("deny(dstPort=1) on a.") == "NO Alice does not hold share a"
            assert await root.ask("DropUser Alice.") == "OK ended=1"
            assert await stranger.ask("Whoami.") == "OK principal=guest:1234"

            # What is granted to everybody is guests', too.
            assert await root.ask("GrantDefault a.") == "OK"
            assert await stranger.ask("deny(dstPort=2) on a.") == "OK id=3"
            assert (await stranger.ask("NewShare b for (*) [] on a.")).startswith("NO guest:1234 is a guest")
            for client in (stranger, other, member):
                await client.close()

    asyncio.run(main())


@pytest.mark.skipif(not ROOT, reason="needs root to be others")
def test_an_account_has_a_share_of_the_connections_and_root_all(open_path: Path) -> None:
    async def main() -> None:
        async with serving(open_path, caps=ConnectionCaps(total=12, each=5)) as there:
            mine = [await client_of(there.path, 1234, 1234, []) for _ in range(5)]
            for client in mine:
                assert await client.ask("Whoami.") == "OK principal=guest:1234"
            over = await client_of(there.path, 1234, 1234, [])
            assert await over.at_end() == "NO too many connections\n"
            others = [await client_of(there.path, 2000 + i, 1, []) for i in range(7)]
            for client in others:
                assert (await client.ask("Whoami.")).startswith("OK principal=guest:20")
            full = await client_of(there.path, 3000, 1, [])
            assert await full.at_end() == "NO too many connections\n"
            root = [await there.client() for _ in range(10)]
            for client in root:
                assert await client.ask("Whoami.") == "OK principal=root"
            await mine.pop().close()
            await until_connections(there, 21)
            again = await client_of(there.path, 1234, 1234, [])
            assert await again.ask("Whoami.") == "OK principal=guest:1234"
            for client in [*mine, *others, over, full, again]:
                await client.close()

    asyncio.run(main())


async def until_connections(there: Served, number: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while there.listener.connections != number:
            await asyncio.sleep(0.01)


def test_our_own_account(tmp_path: Path) -> None:
    """The same without other accounts: the real listener names the account that runs the tests."""

    async def main() -> None:
        async with serving(tmp_path, real=True) as there:
            client = await there.client()
            if ROOT:
                assert await client.ask("Whoami.") == "OK principal=root"
                return
            assert await client.ask("Whoami.") == f"OK principal=guest:{os.getuid()}"
            await there.service.ask("root", parse(f"AddUser Me as uid {os.getuid()}."))
            assert await client.ask("Whoami.") == "OK principal=Me"
            assert (await client.ask("As root.")).startswith("NO ")

    asyncio.run(main())
