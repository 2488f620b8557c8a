"""The topology of many hosts through a real cluster: what one daemon learns the others know; who is gone, and what
is no good."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging

import pytest

from ovspane.discovery import daemons
from ovspane.discovery import shared as shared_topology
from ovspane.discovery.shared import SharedTopology, probe_secret
from ovspane.network.model import Bridge, Origin, Port, PortId
from ovspane.network.topology import Network
from ovspane.store.cluster import ClusterStore
from ovspane.store.records import Record
from tests.support.cluster import Member, leader_of, remotes, run
from tests.support.parties import Running, clock, running
from tests.support.patience import still, until

M1, M2 = "00:00:00:00:00:01", "00:00:00:00:00:02"


class Party(Running):
    """One daemon's network and what it shares."""

    def __init__(self, where: str, name: str, host: str = "") -> None:
        super().__init__()
        self.name, self.host = name, host or name
        self.network = Network()
        self.programs: bool | None = True
        self.store = ClusterStore(where, name)
        self.shared = SharedTopology(self.store, self.network, self.host, lambda bridge: self.programs, clock)

    async def start(self) -> Party:
        self.tasks.append(asyncio.create_task(self.store.run()))
        await self.store.until_synced(20)
        self.tasks.append(asyncio.create_task(self.shared.run()))
        return self

    def bridge(self, *ports: str) -> Party:
        with self.network.change():
            self.network.see_bridge(Bridge("br0", 7))
            for number, port in enumerate(ports, 1):
                self.network.see_port(Port(PortId("br0", port), number, speed=10**9))
        return self

    def see(self, mac: str, port: str, *addresses: str) -> None:
        self.network.see_host(mac, PortId("br0", port), clock(), addresses=addresses)

    def link(self, port: str, other: str) -> None:
        self.network.see_link(PortId("br0", port), PortId.parse(other), "wire", Origin.PROBE, clock())

    def at(self, mac: str) -> str:
        host = self.network.host(mac)
        return str(host.port) if host is not None else ""

    def rows(self, table: str) -> dict[str, Record]:
        return {key[1]: one for key, one in self.store.replica.records.items() if key[0] == table}


def parties(members: list[Member], *names: str) -> contextlib.AbstractAsyncContextManager[list[Party]]:
    return running([Party(remotes(members), name) for name in names])


def transact(members: list[Member], *operations: dict[str, object]) -> None:
    answer = run("ovsdb-client", "transact", leader_of(members).remote, json.dumps(["OVSPane", *operations]))
    assert "error" not in answer, answer


def test_what_one_learns_all_know(members: list[Member]) -> None:
    async def main() -> None:
        async with parties(members, "h1", "h2", "h3") as (one, two, three):
            for party in (one, two, three):
                party.bridge("a", "left", "right")
            one.link("right", "h2/br0:left")
            three.link("left", "h2/br0:right")
            one.see(M1, "a", "10.0.0.1")
            three.see(M2, "a", "10.0.0.2")
            await until(lambda: two.at(M1) == "h1/br0:a" and one.at("10.0.0.2") == "h3/br0:a", "hosts of others")
            for party, start, end in ((one, "br0", "h3/br0"), (two, "h1/br0", "h3/br0"), (three, "h1/br0", "br0")):
                await until(lambda p=party, s=start, e=end: p.network.paths(s, e, 1), f"path on {party.host}")  # type: ignore[misc]
            assert two.network.bridges["h1/br0"].programmed and two.network.bridges["h1/br0"].origin is Origin.SHARED
            await until(lambda: M1 in one.rows("Attachment")[f"{M1} h1"].columns["mac"], "own copy")  # type: ignore[operator]
            # A host that moves is two rows, in as many transactions at most; nothing else is written.
            before = await still(lambda: [party.shared.rows for party in (one, two, three)])
            three.see(M1, "a")
            await until(lambda: one.at(M1) == two.at(M1) == "h3/br0:a" and three.at("10.0.0.1") == "br0:a", "move")
            await until(lambda: set(one.rows("Attachment")) == {f"{M1} h3", f"{M2} h3"}, "one row of it")
            after = await still(lambda: [party.shared.rows for party in (one, two, three)], 0.5)
            assert [now - was for now, was in zip(after, before, strict=True)] == [1, 0, 1]
            # A link is there while either side says so, and both ends are up.
            one.network.see_port(Port(PortId("br0", "right"), 3, up=False))
            await until(lambda: len(three.network.links) == len(two.network.links) == 1, "end of the link")
            one.network.see_port(Port(PortId("br0", "right"), 3))
            two.link("left", "h1/br0:right")
            await until(
                lambda: len(three.network.links) == len(one.network.links) == 2, "link by the other side's word"
            )
            two.network.lose_link(PortId("br0", "left"), PortId("h1/br0", "right"), Origin.PROBE)
            await until(
                lambda: len(three.network.links) == len(two.network.links) == 1, "end, though no value of two's changed"
            )
            two.network.lose_bridge("br0")
            await until(lambda: "h2/br0" not in one.network.bridges, "end of the bridge")

    asyncio.run(main())


def test_a_daemon_that_is_gone(members: list[Member], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows stay, but count as programmed by nobody; when it is back nothing was lost meanwhile; or it is
    forgotten."""
    monkeypatch.setattr(shared_topology, "BEAT", 0.5)
    monkeypatch.setattr(daemons, "SILENCE", 8.0)
    monkeypatch.setattr(shared_topology, "GRACE", 12.0)

    async def main() -> None:
        async with parties(members, "h1", "h2") as (one, two):
            one.bridge("a")
            two.bridge("a")
            two.see(M1, "a", "10.0.0.1")
            two.see(M2, "a")
            await until(lambda: one.at(M1) == "h2/br0:a" and one.network.bridges["h2/br0"].programmed, "other host")
            await asyncio.sleep(9.0)  # longer than SILENCE
            assert one.network.bridges["h2/br0"].programmed  # it says nothing new, but it is there
            await two.stop()
            await until(lambda: not one.network.bridges["h2/br0"].programmed, "silence")
            assert one.at(M1) == "h2/br0:a" and set(one.rows("Attachment")) == {f"{M1} h2", f"{M2} h2"}
            late = Party(remotes(members), "h4")
            try:
                await late.start()
                await until(lambda: late.at(M1) == "h2/br0:a", "what there is, for one that comes later")
                assert not late.network.bridges["h2/br0"].programmed and late.network.bridges["h1/br0"].programmed
            finally:
                await late.stop()
            again = Party(remotes(members), "h2")
            again.programs = None  # its locks are not known yet: as it was before
            try:
                await again.start()
                again.bridge("a")
                await until(lambda: one.network.bridges["h2/br0"].programmed, "return")
                again.programs = True
                again.see(M1, "a")  # its learning table has no addresses
                await until(lambda: again.at("10.0.0.1") == "br0:a", "its address")
                await asyncio.sleep(1.0)
                assert one.at(M2) == "h2/br0:a"  # it may only not have been seen yet
                await until(lambda: not one.at(M2), "end of what nothing speaks for")
                assert one.at("10.0.0.1") == "h2/br0:a"
                again.programs = False
                await until(
                    lambda: not one.network.bridges["h2/br0"].programmed, "its own word that it does not program it"
                )
            finally:
                await again.stop()
            # Nobody heard of it for more than a month: whoever looks removes it.
            await until(lambda: not one.shared._daemons._daemons["h2"].live, "silence")
            long_ago = clock() - daemons.RETIRE - 1000
            transact(
                members,
                {"op": "update", "table": "Daemon", "where": [["name", "==", "h2"]], "row": {"heard_ms": long_ago}},
            )
            await until(lambda: one.rows("Daemon")["h2"].columns["heard_ms"] == long_ago, "its row")
            one.shared._daemons._daemons["h2"].live = False
            await one.shared._daemons.remove_retired()
            await until(lambda: "h2/br0" not in one.network.bridges and not one.at(M1), "end of its rows")
            assert "h2" not in one.rows("Daemon") and not one.rows("Attachment")
            # A row that somebody deletes under a daemon that is there is made again.
            transact(members, {"op": "delete", "table": "Daemon", "where": [["name", "==", "h1"]]},
                     {"op": "delete", "table": "Bridge", "where": []})  # fmt: skip
            await until(lambda: "h1" in one.rows("Daemon") and "h1/br0" in one.rows("Bridge"), "own rows again")

    asyncio.run(main())


def test_rows_that_are_no_good_lose_nothing(members: list[Member], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    ports = ["map", [["a", "[" * 9000], ["b", '[1,1,5,"",0]']]]
    bridges: list[dict[str, object]] = [
        {"name": "x/y/z"},
        {"name": "h1/br0"},
        {"name": "h9/br0", "datapath_id": "-1", "ports": ports},
        {"name": "h8/br0", "links": "{", "ports": ports},
    ]
    hosts: list[dict[str, object]] = [
        {"name": "n1", "mac": "x", "bridge": "h8/br0", "port": "b"},
        {"name": "n2", "mac": M2, "bridge": "h1/br0", "port": "a"},
        {"name": "n3", "mac": M2, "bridge": "h8/br0", "port": "b"},
    ]
    bad: list[dict[str, object]] = [
        {"op": "insert", "table": table, "row": {**row, "daemon": "evil"}}
        for table, rows in (("Bridge", bridges), ("Attachment", hosts))
        for row in rows
    ]

    async def main() -> None:
        async with parties(members, "h1", "h2") as (one, two):
            two.bridge("a")
            two.see(M1, "a")
            transact(members, *bad)
            await until(lambda: two.at(M2) == "h8/br0:b", "what is good")
            one.bridge("a")
            await until(
                lambda: one.at(M1) == "h2/br0:a" and two.network.bridges["h1/br0"].datapath_id == 7, "the others' rows"
            )
            assert {port.port for port in two.network.ports if port.bridge == "h8/br0"} == {"b"}
            assert "h9/br0" not in two.network.bridges
            warned = [record.getMessage() for record in caplog.records if "topology" in record.getMessage()]
            assert 0 < len(warned) <= 2 * len(bad) and len(set(warned)) > 4, warned
            transact(
                members,
                {"op": "update", "table": "Attachment", "where": [["name", "==", "n3"]], "row": {"since_ms": 9}},
            )
            await asyncio.sleep(0.5)
            assert len([one for one in caplog.records if "topology" in one.getMessage()]) == len(warned)

    asyncio.run(main())


def test_versions_of_ports_that_are_gone_are_deleted_in_time(members: list[Member]) -> None:
    names = {"link:h1/br0:a", "link:h1/br0:gone", "link:h1/br0:used", "tight:h1/br0", "link:h2/br0:gone", "room:gone"}

    async def main() -> None:
        async with parties(members, "h1") as (one,):
            one.bridge("a")
            transact(
                members,
                *({"op": "insert", "table": "Version", "row": {"name": name, "number": 5}} for name in sorted(names)),
            )
            await until(lambda: set(one.rows("Version")) == names, "versions")
            await one.shared._delete_unused_versions()
            assert set(one.rows("Version")) == names  # it was there one moment ago
            transact(members, {"op": "mutate", "table": "Version", "where": [["name", "==", "link:h1/br0:used"]],
                               "mutations": [["number", "+=", 1]]})  # fmt: skip
            await until(lambda: one.rows("Version")["link:h1/br0:used"].columns["number"] == 6, "change")
            await one.shared._delete_unused_versions()
            assert set(one.rows("Version")) == names - {"link:h1/br0:gone"}
            await one.shared._delete_unused_versions()
            assert set(one.rows("Version")) == names - {"link:h1/br0:gone", "link:h1/br0:used"}

    asyncio.run(main())


def test_two_daemons_of_one_host_name(members: list[Member], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)

    async def main() -> None:
        first, second = Party(remotes(members), "one", "host"), Party(remotes(members), "two", "host")
        try:
            (await first.start()).bridge("a")
            await until(lambda: "host/br0" in first.rows("Bridge"), "row of the first")
            (await second.start()).bridge("a", "b")
            await until(lambda: any("has our name host" in one.getMessage() for one in caplog.records), "complaint")
            assert second.rows("Bridge")["host/br0"].columns["daemon"] == "one"
            assert set(first.network.bridges) == {"br0"} == set(second.network.bridges)
        finally:
            await second.stop()
            await first.stop()

    asyncio.run(main())


def test_the_leader_dies_while_hosts_move(members: list[Member]) -> None:
    async def main() -> None:
        async with parties(members, "h1", "h2") as (one, two):
            one.bridge("a", "b")
            two.bridge("a")
            macs = [f"00:00:00:00:01:{number:02x}" for number in range(100)]
            for number, mac in enumerate(macs):
                one.see(mac, "ab"[number % 2], f"10.0.1.{number}")
                if number == 50:
                    await until(lambda: two.at(macs[0]), "first hosts")
                    leader_of(members).kill()
                await asyncio.sleep(0.01)
            await until(lambda: all(two.at(mac) == one.at(mac).replace("br0", "h1/br0") for mac in macs), "hosts")
            assert two.at("10.0.1.99") == "h1/br0:b"

    asyncio.run(main())


def test_one_secret_for_probes(members: list[Member]) -> None:
    async def main() -> None:
        stores = [ClusterStore(remotes(members), f"d{number}") for number in range(4)]
        tasks = [asyncio.create_task(store.run()) for store in stores]
        try:
            for store in stores:
                await store.until_synced(20)
            found = set(await asyncio.gather(*map(probe_secret, stores)))
            assert len(found) == 1 and len(found.pop()) == 64
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())
