"""Many daemons' services on one real cluster, in one process: nothing is given away twice, all end up with the same
state.
"""

from __future__ import annotations

import asyncio

from ovspane.lang.replies import Code, Reply
from tests.support.cluster import Member, remotes
from tests.support.parties import Party, agree, clock, parties
from tests.support.patience import PATIENCE


def test_the_last_room_is_given_away_once(members: list[Member]) -> None:
    """1 000 racing reservations of 1 Mb from three daemons for a share with room for 100."""

    async def main() -> None:
        async with parties(remotes(members)) as made:
            await made[0].do("NewShare a for (*) [reserve <= 100Mb] on rootShare.")
            for number, one in enumerate(made):  # so that each has ids, and versions are there
                await one.do(f"reserve(dstPort={2000 + number}) = 1Mb on a to +1h.")
            for _ in range(3):
                await agree(made)
                await made[0].do(f"Cancel {min(made[0].service.state.requests)}.")
            await agree(made)
            ports = iter(range(1, 1001))

            async def ask(one: Party) -> list[Reply]:
                return [await one.say(f"reserve(dstPort={port}) = 1Mb on a to +1h.") for port in ports]

            replies = [reply for part in await asyncio.gather(*map(ask, made * 4)) for reply in part]
            assert len(replies) == 1000
            granted = [reply for reply in replies if reply.code is Code.OK]
            assert len(granted) == 100
            assert {reply.reason_code for reply in replies if reply.code is not Code.OK} == {"no-room"}
            await agree(made)
            ids = {reply.fields["id"] for reply in granted}
            assert len(ids) == 100
            for one in made:
                reserved = {number: one for number, one in one.service.state.requests.items() if one.slot}
                assert set(reserved) == ids
                assert one.service.state.schedules["a"].total_at(clock()) == 100_000_000
                assert len({request.slot for request in reserved.values()}) == 100
            races = [one.commits.races for one in made]
            print("races lost:", races)
            assert sum(races) > 0

    asyncio.run(main())


def test_nobody_starves_where_all_want_the_same_share(members: list[Member]) -> None:
    """Who is served last by the leader would lose every race; it gets its turn all the same."""

    async def main() -> None:
        async with parties(remotes(members)) as made:
            await made[0].do("NewShare a for (*) [reserve <= 1Gb] on rootShare.")
            await agree(made)
            done = [0, 0, 0]

            async def ask(number: int) -> None:
                while max(done) < 200:
                    await made[number].do(
                        f"reserve(srcPort={number + 1}, dstPort={done[number] + 1}) = 1kb on a to +1h."
                    )
                    done[number] += 1

            await asyncio.gather(*map(ask, range(3)))
            print("statements of each:", done, "races lost:", [one.commits.races for one in made])
            assert min(done) > 10

    asyncio.run(main())


def test_what_one_daemon_answered_binds_the_others_at_once(members: list[Member]) -> None:
    """No daemon may judge on a copy that lacks what another one has answered already."""

    async def main() -> None:
        async with parties(remotes(members), 2) as (one, other):
            for name in ("a", "b"):
                await one.do(f"NewShare {name} for (*) [deny = True, allow = True] on rootShare.")
            await one.do("NewShare c for (*) [deny = True, allow = True] on b.")
            await agree([one, other])
            for port in range(1, 40):
                await one.do(f"deny(dstPort={port}) on b to +1h.")
                assert (await other.say(f"allow(dstPort={port}) on a to +1h.")).reason_code == "overridden", port
                opener = await other.do(f"allow(dstPort={port}) on c to +1h.")
                opened = await one.do(f"allow(dstPort={port}) on c to +1h.")
                assert (await one.say(f"deny(dstPort={port}) on b to +1h.")).reason_code == "overridden", port
                await one.do(f"Cancel {opener.fields['id']}.")
                await other.do(f"Cancel {opened.fields['id']}.")
                await one.do(f"deny(dstPort={port}) on b to +1h.")
            await agree([one, other])

    asyncio.run(main())


def test_shares_grants_and_ends_are_seen_by_all(members: list[Member]) -> None:
    async def main() -> None:
        async with parties(remotes(members)) as made:
            one, two, three = made
            await one.do("NewShare a for (*) [reserve <= 10Mb] on rootShare.")
            await one.do("AddUser Alice.")
            await one.do("Grant a to Alice.")
            await agree(made)
            reply = await two.say("reserve(dstPort=80) = 4Mb on a to +1s.", "Alice")
            assert reply.code is Code.OK
            kept = await three.say("reserve(dstPort=81) = 4Mb on a to +1h.", "Alice")
            assert kept.code is Code.OK
            await agree(made)
            assert len(one.service.state.requests) == 2
            async with asyncio.timeout(PATIENCE):
                while len(one.store.replica.records) == 0 or any(len(p.service.state.requests) != 1 for p in made):
                    await asyncio.sleep(0.05)
                while ("Request", str(reply.fields["id"])) in one.store.replica.records:
                    await asyncio.sleep(0.05)
            await one.do("DropUser Alice.")
            await agree(made)
            assert not three.service.state.requests
            assert (await three.say("reserve(dstPort=80) = 4Mb on a to +1s.", "Alice")).reason_code == "not-holder"
            await three.do("DropShare a.")
            await agree(made)
            assert not [key for key in one.store.replica.records if key[0] == "Request"]
            assert ("Version", "room:a") not in one.store.replica.records

    asyncio.run(main())
