"""scapy packets sent from hosts, and where they arrive.

Invariants: every listener is up before the first packet leaves; each packet carries a token of its own, so an arrival
is that very packet, not one like it (an answer that quotes it comes from another address); a listener's buffer holds
all.
"""

import os
import select
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from scapy.config import conf
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from tests.lab.hosts import Host

conf.bufsize = 2**22  # scapy's default loses most of a burst of 200 probes
conf.verb = 0
TOKEN_BYTES = 12
SO_RCVBUFFORCE = 33  # asm-generic/socket.h: past net.core.rmem_max, for root; not in Python's socket module


def listener(host: Host) -> Any:
    """A scapy socket on the host's interface, receiving and sending, from now on. The caller closes it."""

    def make() -> Any:
        link = conf.L2socket(iface=host.interface, nofilter=1)
        try:
            link.ins.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, conf.bufsize)
        except PermissionError:
            pass  # root of a user namespace only: net.core.rmem_max has to do
        return link

    return host.inside(make)


def arrivals(
    sends: Sequence[tuple[Host, Packet]], at: Iterable[Host], wait: float = 0.5, gap: float = 0.0005
) -> list[frozenset[str]]:
    """Sends each packet from its host; for each packet, the names of the hosts in `at` at which it arrived.

    A packet starts with Ether; its token is appended to the payload (scapy computes lengths and checksums after that).
    Packets leave `gap` seconds apart; returns when for `wait` seconds none arrived any more. What a host sends does not
    count as arrived at that host. A bridge that has not learnt an address floods: let the hosts speak once before.

        [there] = arrivals([(h1, Ether(src=h1.mac, dst=h2.mac) / IP(src=h1.ip, dst=h2.ip) / UDP(dport=53))], at=[h2])
        assert there == {"h2"}
    """
    hosts = {host.name: host for host in [*at, *(sender for sender, _ in sends)]}
    watched = {host.name for host in at}
    links = {name: listener(host) for name, host in hosts.items()}
    tokens = {os.urandom(TOKEN_BYTES): index for index in range(len(sends))}
    sources = [bytes(packet)[6:12] for _, packet in sends]
    found: list[set[str]] = [set() for _ in sends]

    def collect(until: float) -> None:
        for name, frame in received(links, until):
            index = _probe_in(frame, tokens)
            # ICMP echoes and errors from the other side quote the token, too: their source is not the probe's.
            if name in watched and index is not None and frame[6:12] == sources[index]:
                found[index].add(name)

    try:
        for (sender, packet), token in zip(sends, tokens, strict=True):
            links[sender.name].send(packet / Raw(token))
            collect(time.monotonic() + gap)
        before = -1
        while (there := sum(map(len, found))) > before:  # as long as there comes something
            before = there
            collect(time.monotonic() + wait)
    finally:
        for link in links.values():
            link.close()
    return [frozenset(names) for names in found]


def received(links: dict[str, Any], until: float) -> Iterator[tuple[str, bytes]]:
    """(host, frame) for what comes in until the monotonic time `until`; all that is there by then."""
    owners = {link: name for name, link in links.items()}
    while True:
        ready, _, _ = select.select(list(owners), [], [], max(0.0, until - time.monotonic()))
        if not ready:
            return
        for link in ready:
            _, frame, _ = link.recv_raw()
            if frame is not None:  # None is its own frame going out
                yield owners[link], frame


def _probe_in(data: bytes, tokens: dict[bytes, int]) -> int | None:
    """Which probe a frame is. Its token ends the frame or stands before padding: look from the end."""
    for start in range(len(data) - TOKEN_BYTES, 13, -1):
        index = tokens.get(data[start : start + TOKEN_BYTES])
        if index is not None:
            return index
    return None


def packet_between(src: Host, dst: Host) -> Packet:
    """The Ethernet header of a frame from one host to the other; the rest comes after `/`."""
    return Ether(src=src.mac, dst=dst.mac)
