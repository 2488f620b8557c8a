"""Room on links over time: what is accepted fits every link of its way at every instant, what is refused does not, the
offer does.

The oracle adds up what is accepted, instant by instant.
"""

from __future__ import annotations

from random import Random

import pytest

from ovspane.lang.parser import parse
from ovspane.lang.replies import Code, Reply
from ovspane.network.model import Origin, Port, PortId
from ovspane.placement.link_capacity import LinkCapacity
from ovspane.placement.routing import Routing
from ovspane.policy.runtime import Runtime
from tests.support.placing import M, Paper, random_network


class Policed:
    """A runtime over a network on paper; `say` as root, at `now` (ms)."""

    def __init__(self, paper: Paper, percent: int = 75, paths: int = 0) -> None:
        self.paper = paper
        self.link_capacity = LinkCapacity(Routing(most=paths), percent)
        paper.network.listen(self.link_capacity.notify)
        self.link_capacity.notify(paper.take())
        self.runtime = Runtime(capacity=self.link_capacity)
        self.now = 0

    def say(self, text: str) -> Reply:
        over = self.runtime.overdue(self.now)
        self.runtime.apply(over)
        outcome = self.runtime.execute("root", parse(text), self.now)
        self.runtime.apply(outcome.changes)
        self.runtime.settle(self.now)
        return outcome.reply

    def load(self, port: PortId, at: int) -> int:
        """What is reserved on a port at an instant (ms), by the addresses of the requests."""
        return sum(
            request.rate
            for request in self.runtime.state.requests.values()
            if request.start <= at
            and (request.end is None or at < request.end)
            and port in self.link_capacity.bookings[request.id].ports
        )


def line(speed: int = 20 * M) -> Paper:
    paper = Paper()
    for name in ("s1", "s2", "s3"):
        paper.bridge(name)
    paper.link("s1", "s2", speed)
    paper.link("s2", "s3", speed)
    for number in (1, 2, 3, 4):
        paper.host(number, f"s{min(number, 3)}", speed=100 * M)
    return paper


def reserve(source: int, sink: int, rate: str, times: str = "") -> str:
    return f"reserve(srcHost=10.0.0.{source}, dstHost=10.0.0.{sink}) = {rate} on rootShare{times}."


def test_two_that_do_not_fit_one_link() -> None:
    made = Policed(line())
    assert made.say(reserve(1, 3, "12Mb", " to +60")).code is Code.OK
    refused = made.say(reserve(2, 4, "12Mb", " to +30"))
    assert refused.reason_code == "no-link-room"
    assert "does not fit link s2:to-s3 to s3:to-s2" in refused.text
    assert "3Mb free" in refused.text
    assert "fits from +" in refused.text
    assert made.say(reserve(2, 4, "12Mb", " from +60 to +90")).code is Code.OK
    assert made.say(reserve(4, 2, "12Mb", " to +30")).code is Code.OK, "the other direction has room of its own"
    assert made.say(reserve(2, 1, "12Mb", " to +30")).code is Code.OK, "this link is free"
    made.say("Cancel 1.")
    assert made.say(reserve(2, 4, "12Mb", " to +30")).code is Code.OK


def test_partial_gets_what_the_link_has() -> None:
    made = Policed(line())
    assert made.say(reserve(1, 3, "12Mb")).code is Code.OK
    granted = made.say("reserve(srcHost=10.0.0.2, dstHost=10.0.0.4) = 12Mb partial on rootShare.")
    assert granted.fields["granted"] == "3Mb"
    assert made.say("available(srcHost=10.0.0.2, dstHost=10.0.0.3) on rootShare.").fields["rate"] == "0b"
    assert made.say("available(srcHost=10.0.0.3, dstHost=10.0.0.2) on rootShare.").fields["rate"] == "15Mb"


def test_an_unknown_destination_takes_room_wherever_it_may_leave() -> None:
    made = Policed(line())
    assert made.say("reserve(srcHost=10.0.0.1) = 12Mb on rootShare.").code is Code.OK
    assert made.say(reserve(1, 3, "12Mb")).reason_code == "no-link-room"
    assert made.say(reserve(3, 4, "60Mb")).code is Code.OK  # 100 Mb, of which 75 may be reserved and 12 are
    assert made.say("reserve(dstPort=80) = 80Mb on rootShare.").reason_code == "no-link-room"


def test_a_host_that_moves_takes_its_room_along() -> None:
    made = Policed(line())
    assert made.say(reserve(1, 3, "12Mb")).code is Code.OK
    made.paper.host(3, "s1")
    assert made.say(reserve(2, 4, "12Mb")).code is Code.OK
    made.paper.host(3, "s3")
    reason = "24Mb are reserved on link s2:to-s3 to s3:to-s2, which has 15Mb"
    assert made.link_capacity.find_unsatisfied(0) == {1: reason, 2: reason}
    made.say("Cancel 1.")
    assert made.link_capacity.find_unsatisfied(0) == {}


def test_a_link_that_fails_and_comes_back() -> None:
    made = Policed(line())
    assert made.say(reserve(1, 3, "12Mb", " to +60")).code is Code.OK
    made.paper.unlink("s2", "s3")
    assert made.link_capacity.find_unsatisfied(0) == {1: "no known link leads from its source to its destination"}
    assert made.link_capacity.find_unsatisfied(60_000) == {}
    network = made.paper.network
    network.see_link(PortId("s2", "to-s3"), PortId("s3", "to-s2"), "veth", Origin.LOCAL, 1)
    assert made.link_capacity.find_unsatisfied(0) == {}


def test_a_ring_has_room_on_the_other_side_already() -> None:
    paper = line()
    paper.link("s1", "s3", 20 * M)
    made = Policed(paper)
    assert made.say(reserve(1, 3, "12Mb")).code is Code.OK
    assert made.say(reserve(1, 2, "12Mb")).reason_code == "no-link-room"
    made.paper.unlink("s1", "s3")
    assert made.link_capacity.find_unsatisfied(0) == {}
    assert made.load(PortId("s2", "to-s3"), 0) == 12 * M


def test_speeds_that_change() -> None:
    made = Policed(line(0))
    assert made.say(reserve(1, 3, "70Mb")).code is Code.OK
    network = made.paper.network
    for port in (PortId("s1", "to-s2"), PortId("s2", "to-s1")):
        network.see_port(Port(port, network.ports[port].number, speed=20 * M))
    assert made.link_capacity.find_unsatisfied(0) == {
        1: "70Mb are reserved on link s1:to-s2 to s2:to-s1, which has 15Mb"
    }
    assert made.say(reserve(1, 2, "1Mb")).reason_code == "no-link-room"


def test_users_take_room_where_they_are() -> None:
    made = Policed(line())
    assert made.say("AddUser Alice.").code is Code.OK
    assert made.say("reserve(user=Alice, dstHost=10.0.0.4) = 12Mb on rootShare.").code is Code.OK
    assert made.say(reserve(1, 3, "12Mb")).reason_code == "no-link-room", "she may be anywhere"
    assert made.say("Locate Alice at 10.0.0.3.").code is Code.OK
    assert made.say(reserve(1, 3, "12Mb")).code is Code.OK


@pytest.mark.parametrize("seed", range(60))
def test_never_more_than_there_is(seed: int) -> None:
    rng = Random(seed)
    paper = random_network(rng, hosts=4)
    for port in list(paper.network.ports.values()):
        paper.network.see_port(Port(port.id, port.number, speed=rng.choice((0, 10, 20, 40)) * M))
    made = Policed(paper, rng.choice((50, 75, 100)))
    answers = set()
    for _ in range(30):
        source, sink = rng.sample(range(1, 5), 2)
        start = rng.randint(0, 20)
        group = f"srcHost=10.0.0.{source}" + (f", dstHost=10.0.0.{sink}" if rng.random() < 0.8 else "")
        rate = rng.randint(1, 12)
        times = f"from +{start} to +{start + rng.randint(1, 20)}"
        partial = rng.choice(("", "", "partial "))
        reply = made.say(f"reserve({group}) = {rate}Mb {partial}on rootShare {times}.")
        answers.add(reply.reason_code if reply.code is Code.NO else "granted" if "granted" in reply.fields else "ok")
        for port in paper.network.ports:
            capacity = made.link_capacity.capacity(port)
            for at in range(0, 41_000, 1000) if capacity is not None else ():
                assert made.load(port, at) <= capacity, (seed, port, at)
        assert made.link_capacity.find_unsatisfied(made.now) == {}
        if reply.code is Code.NO and "b free from" in reply.text:  # what it offers does fit
            most = reply.text.split(" free from")[0].split()[-1]
            assert made.say(f"Check reserve({group}) = {most} on rootShare {times}.").code is Code.OK, reply.text
        if rng.random() < 0.2 and made.runtime.state.requests:
            made.say(f"Cancel {rng.choice(list(made.runtime.state.requests))}.")
    assert "ok" in answers


def test_replay_knows_no_links() -> None:
    runtime = Runtime()
    outcome = runtime.execute("root", parse(reserve(1, 3, "12Gb")), 0)
    assert outcome.reply.code is Code.OK
