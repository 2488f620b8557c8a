"""The TLS listener with certificates made by openssl: who has none of our authority's has no connection."""

import asyncio
import ssl
import subprocess
from pathlib import Path

import pytest

from ovspane.config import Settings, TlsSettings
from ovspane.daemon.reloading import reload
from ovspane.lang.parser import parse
from ovspane.lang.replies import Code
from ovspane.server.accepting import DEFAULT_CAPS, ConnectionCaps, ListenError
from ovspane.server.service import Service
from ovspane.server.tls import TlsListener, common_name, server_context
from tests.support.patience import PATIENCE
from tests.support.serving import Client, FileKeeper, running


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def authority(directory: Path, name: str) -> None:
    openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"),
        *("-subj", f"/CN={name}", "-keyout", directory / f"{name}.key", "-out", directory / f"{name}.pem"),
    )


def certificate(directory: Path, name: str, subject: str, signer: str) -> None:
    key, request, signed = (directory / f"{name}.{kind}" for kind in ("key", "csr", "pem"))
    openssl(
        *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", subject),
        *("-keyout", key, "-out", request),
    )
    openssl(
        *("x509", "-req", "-in", request, "-days", "2", "-CA", directory / f"{signer}.pem"),
        *("-CAkey", directory / f"{signer}.key", "-CAcreateserial", "-out", signed),
    )


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("keys")
    authority(directory, "ours")
    authority(directory, "theirs")
    certificate(directory, "server", "/CN=localhost", "ours")
    certificate(directory, "alice", "/O=Example/CN=alice.example.org", "ours")
    certificate(directory, "bob", "/CN=Bob", "ours")
    certificate(directory, "root", "/CN=root", "ours")
    certificate(directory, "nameless", "/O=Example", "ours")
    certificate(directory, "mallory", "/CN=Bob", "theirs")
    return directory


async def connect(listener: TlsListener, keys: Path, name: str | None) -> Client:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(keys / "ours.pem")
    if name is not None:
        context.load_cert_chain(keys / f"{name}.pem", keys / f"{name}.key")
    return Client(*await asyncio.open_connection("127.0.0.1", listener.port, ssl=context, limit=1 << 20))


async def started(service: Service, keys: Path, caps: ConnectionCaps = DEFAULT_CAPS) -> TlsListener:
    context = server_context(keys / "server.pem", keys / "server.key", keys / "ours.pem")
    listener = TlsListener(service, "127.0.0.1", 0, context, caps=caps)
    await listener.start()
    return listener


def test_the_certificate_says_who_speaks(tmp_path: Path, keys: Path) -> None:
    async def main() -> None:
        async with running(FileKeeper(tmp_path / "kept")) as service:
            listener = await started(service, keys)
            alice = await connect(listener, keys, "alice")
            bob = await connect(listener, keys, "bob")
            root = await connect(listener, keys, "root")
            assert await alice.ask("Whoami.") == "OK principal=guest:cert:alice.example.org note=not-bound"
            assert await bob.ask("Whoami.") == "OK principal=guest:cert:Bob note=not-bound"
            assert await root.ask("Whoami.") == "OK principal=guest:cert:root note=not-bound"
            for text in ('AddUser Alice as cert "alice.example.org".', "AddUser Bob."):
                assert (await service.ask("root", parse(text))).code is Code.OK
            assert await alice.ask("Whoami.") == "OK principal=Alice"
            assert await bob.ask("Whoami.") == "OK principal=guest:cert:Bob note=not-bound"  # Bob is an account
            assert (await service.ask("root", parse('AddUser Bob as cert "Bob".'))).code is Code.OK
            assert await bob.ask("Whoami.") == "OK principal=Bob"
            assert (await root.ask("As Alice.")).startswith("NO only root")
            alice.send("Whoami.\n" * 1000 + "ListShares.\n")
            assert [await alice.line() for _ in range(1000)] == ["OK principal=Alice"] * 1000
            assert await alice.line() == "OK n=0"
            for client in (alice, bob, root):
                await client.close()
            await listener.close()

    asyncio.run(main())


@pytest.mark.parametrize("name", [None, "mallory", "nameless"])
def test_without_a_certificate_of_ours_there_is_no_connection(tmp_path: Path, keys: Path, name: str | None) -> None:
    async def main() -> None:
        async with running(FileKeeper(tmp_path / "kept")) as service:
            listener = await started(service, keys)
            # With TLS 1.3 the client's handshake may be over before the server has seen that it has no certificate.
            with pytest.raises((OSError, asyncio.IncompleteReadError)):
                client = await connect(listener, keys, name)
                client.send("Whoami.\n")
                await asyncio.wait_for(client.reader.readuntil(b"\n"), PATIENCE)
            async with asyncio.timeout(PATIENCE):
                while listener.connections:
                    await asyncio.sleep(0.01)
            bob = await connect(listener, keys, "bob")
            assert await bob.ask("Whoami.") == "OK principal=guest:cert:Bob note=not-bound"
            await bob.close()
            await listener.close()

    asyncio.run(main())


def test_one_that_does_not_shake_hands_holds_nobody_up(tmp_path: Path, keys: Path) -> None:
    async def main() -> None:
        async with running(FileKeeper(tmp_path / "kept")) as service:
            listener = await started(service, keys)
            silent = [await asyncio.open_connection("127.0.0.1", listener.port) for _ in range(20)]
            silent[0][1].write(b"GET / HTTP/1.0\r\n\r\n")
            bob = await connect(listener, keys, "bob")
            assert await bob.ask("Whoami.") == "OK principal=guest:cert:Bob note=not-bound"
            await bob.close()
            for _, writer in silent:
                writer.close()
            async with asyncio.timeout(PATIENCE):
                while listener.connections:
                    await asyncio.sleep(0.01)
            await listener.close()

    asyncio.run(main())


def test_handshakes_are_no_sessions_and_accounts_are_counted_apart(tmp_path: Path, keys: Path) -> None:
    """Those that shake hands take no session's place; a certificate has a number of sessions, whatever their addresses;
    one that has them all does not keep another out."""

    async def main() -> None:
        caps = ConnectionCaps(total=3, each=2, opening=8, opening_each=8)
        async with running(FileKeeper(tmp_path / "kept")) as service:
            listener = await started(service, keys, caps)
            silent = [await asyncio.open_connection("127.0.0.1", listener.port) for _ in range(7)]
            bobs = [await connect(listener, keys, "bob") for _ in range(2)]
            for bob in bobs:
                assert await bob.ask("Whoami.") == "OK principal=guest:cert:Bob note=not-bound"
            third = await connect(listener, keys, "bob")
            assert await third.line() == "NO too many connections"
            alice = await connect(listener, keys, "alice")
            assert await alice.ask("Whoami.") == "OK principal=guest:cert:alice.example.org note=not-bound"
            assert listener.connections == 3
            for client in (*bobs, third, alice):
                await client.close()
            async with asyncio.timeout(PATIENCE):
                while listener.connections:
                    await asyncio.sleep(0.01)
            again = await connect(listener, keys, "bob")
            assert await again.ask("Whoami.") == "OK principal=guest:cert:Bob note=not-bound"
            await again.close()
            for _, writer in silent:
                writer.close()
            await listener.close()

    asyncio.run(main())


def test_bad_settings_are_told(tmp_path: Path, keys: Path) -> None:
    async def main() -> None:
        with pytest.raises(ListenError, match="TLS"):
            server_context(keys / "server.pem", keys / "bob.key", keys / "ours.pem")
        with pytest.raises(ListenError, match="TLS"):
            server_context(keys / "none.pem", keys / "server.key", keys / "ours.pem")
        context = server_context(keys / "server.pem", keys / "server.key", keys / "ours.pem")
        context.verify_mode = ssl.CERT_OPTIONAL
        with pytest.raises(ListenError, match="requires client certificates"):
            TlsListener(None, "127.0.0.1", 0, context)  # type: ignore[arg-type]

    asyncio.run(main())


def test_common_name() -> None:
    assert common_name({"subject": ((("organizationName", "x"),), (("commonName", "a"),))}) == "a"
    assert common_name({"subject": ((("commonName", "a"),), (("commonName", "b"),))}) is None
    assert common_name({}) is None


def test_certificates_are_taken_in_while_it_runs(tmp_path: Path, keys: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As SIGHUP does: bad ones leave those of before, new ones are for new connections."""

    async def play() -> None:
        context = server_context(keys / "server.pem", keys / "server.key", keys / "theirs.pem")
        async with running(FileKeeper(tmp_path / "kept")) as service:
            listener = TlsListener(service, "127.0.0.1", 0, context)
            await listener.start()
            with pytest.raises((OSError, asyncio.IncompleteReadError)):
                early = await connect(listener, keys, "alice")
                early.send("Whoami.\n")
                await asyncio.wait_for(early.reader.readuntil(b"\n"), PATIENCE)
            missing = Settings(tls=TlsSettings("127.0.0.1:1", str(keys / "server.pem"), str(keys / "none.key"), "none"))
            reload(missing, lambda: missing, [listener])
            assert "the certificates of before stay" in caplog.text
            mallory = await connect(listener, keys, "mallory")
            assert (await mallory.ask("Whoami.")).startswith("OK")
            files = (str(keys / name) for name in ("server.pem", "server.key", "ours.pem"))
            new = Settings(tls=TlsSettings("127.0.0.1:1", *files))
            reload(new, lambda: new, [listener])
            alice = await connect(listener, keys, "alice")
            assert (await alice.ask("Whoami.")).startswith("OK")
            await mallory.close()
            await alice.close()
            await listener.close()

    asyncio.run(play())
