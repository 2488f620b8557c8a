"""The acts: what is said, what must be answered, and what must then be true in the switch and in the packets.

The statements of ovspane(7), section 10, are said as they stand there. Each act leaves what the next one needs; an act
that breaks (a tool fails, a row is missing) is a failure with its reason, and the others go on.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from fnmatch import fnmatchcase

from demo import evidence, scene
from demo.evidence import ToolError, until
from demo.page import Page

SERVER = scene.address(2)
#: seconds of the deny that is waited for
SHORT_DENY = 4
#: Mbit/s: what the measured reservation asks for, and what of it TCP can carry as user data (1448 of 1514 bytes), less
#: 4 %
RESERVED, LEAST = 12, 11.0
#: what a guest's coarse clock and slow processor may make of it
GUEST_SHARE = {"uml": 0.85, "qemu": 0.75}
#: Mbit/s: the rate limit, and what may be measured: TCP keeps below a limit, and the meter's burst is a second's worth
LIMIT, LIMIT_RANGE = 2, (1.0, 2.6)


class NoRequest(Exception):
    """A statement made no request, which was noted: the rest of the act would speak of nothing."""


class Play:
    """One performance. `before` is how the switch was before ovspane came."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._as_alice = scene.can_be_alice()
        self.before: dict[str, list[str]] = {}
        self._first = 0  # the number of the first reservation

    def act(self, title: str, content: Callable[[], None]) -> None:
        """One act, with what breaks it as a failure."""
        self._page.act(title)
        try:
            content()
        except NoRequest:
            pass  # noted where it was raised
        except (ToolError, LookupError, ValueError, OSError, RuntimeError) as problem:
            self._page.check(False, f"{title}: {type(problem).__name__}: {problem}")

    # --- saying things

    def _say(self, who: str, statement: str, expected: str = "OK*", why: str = "") -> int:
        """Say it, check the reply; the request's number (0: none). Raises NoRequest when one was expected and none
        was made."""
        if who == "root":
            reply = scene.speak(0, statement)
        elif self._as_alice:
            reply = scene.speak(scene.ALICE, statement)
        else:
            reply = scene.speak(0, f"As {who}.", statement).partition("\n")[2]
        reply = reply.strip()
        self._page.statement(who, statement)
        if fnmatchcase(reply, expected):
            self._page.check(True, reply + (f"   ({why})" if why else ""))
        else:
            self._page.check(False, f"{reply or 'no reply'}   (expected: {expected})")
        found = re.match(r"OK.*\bid=(\d+)", reply)
        if found is None and "id=" in expected:
            raise NoRequest
        return int(found[1]) if found else 0

    def _pings(self, source: str, target: str, answered: bool, text: str) -> None:
        got = evidence.ping(source, target)
        self._page.check(got == (3 if answered else 0), f"{text}: ping {source} -> {target}, {got} of 3 answered")

    def _has_flows(self, request: int, what: str) -> None:
        """The request's flows are there, with our cookie; shows the first."""
        there = until(lambda: evidence.flows_of(request))
        flows = evidence.flows_of(request)
        self._page.show(sorted(flows, key=lambda flow: ",tcp," not in flow)[:1])
        more = f"{len(flows)} flows" if len(flows) != 1 else "1 flow"
        cookie = evidence.COOKIE_TAG | request
        self._page.check(there and any(what in flow for flow in flows), f"{more} with cookie {cookie:#x}, doing {what}")

    # --- the acts

    def reach_all(self) -> None:
        """Every host reaches the next; the bridge learns them all by it."""
        for source, target in (("h1", SERVER), ("h3", SERVER), ("h3", scene.address(1))):
            evidence.ping(source, target, 1)  # the first may be lost to ARP
            self._pings(source, target, True, "without ovspane")

    def principals(self) -> None:
        """Alice is made known and located."""
        bound = f" as uid {scene.ALICE}" if self._as_alice else ""
        self._say("root", f"AddUser Alice{bound}.")
        self._say("root", f"Locate Alice at {scene.address(1)}.")
        if self._as_alice:
            self._say(
                "Alice",
                "Whoami.",
                "OK*principal=Alice*",
                f"known by the kernel's word (SO_PEERCRED: uid {scene.ALICE})",
            )
        else:
            self._page.note("One account only is mapped here, so root says Alice's statements for her (As Alice.).")

    def reservation(self) -> None:
        """A share for Alice, and a reservation on it."""
        self._say("root", "NewShare aBW for (user=Alice) [reserve <= 10Mb] on rootShare.")
        self._say("root", "Grant aBW to Alice.")
        self._first = self._say("Alice", "reserve(user=Alice, dstPort=443) = 8Mb on aBW from now to +20min.", "OK id=*")
        self._reserved(self._first, 8, 443)

    def _reserved(self, request: int, rate: int, port: int) -> None:
        """Flows, queue rows, tc and a trace of a reservation of `rate` Mbit/s on TCP to `port`."""
        self._has_flows(request, "set_queue:")
        row = {row.request: row for row in evidence.our_queues() if row.port == "v2"}[request]
        kernel = evidence.tc_class("v2", row.id)
        self._page.show([str(row), f"tc class show dev v2: {kernel}"])
        self._page.check(row.min_rate == rate * 1_000_000, f"the queue row on v2 guarantees {rate} Mbit/s")
        text = f"the kernel's HTB class 1:{row.id + 1:x} on v2 has rate {rate}Mbit"
        self._page.check(evidence.rate_of(kernel) == f"{rate}Mbit", text)
        steps, actions = evidence.trace(scene.packet(1, 2, f"tcp,tp_dst={port}"))
        # skb_priority is the tc class, 1:(queue+1), on the kernel datapath (lib/netdev-linux.c); elsewhere the bare
        # queue id
        priority = 0x10000 + row.id + 1 if scene.KERNEL else row.id
        named = f"set_queue:{row.id}" in steps and f"skb_priority({priority:#x})" in actions
        self._page.show([f"ofproto/trace h1 -> h2 tcp {port}: {', '.join(steps)}; datapath actions: {actions}"])
        self._page.check(named, f"ofproto/trace names queue {row.id}: set_queue:{row.id}, skb_priority({priority:#x})")

    def room(self) -> None:
        """What does not fit is refused with an offer, which is accepted."""
        refusal, why = "NO 5Mb does not fit *2Mb free*fits from*", "the reason, and a counter-offer"
        self._say("Alice", "reserve(user=Alice, dstPort=80) = 5Mb on aBW from now to +10min.", refusal, why)
        later = self._say("Alice", "reserve(user=Alice, dstPort=80) = 5Mb on aBW from +20min to +30min.", "OK id=*")
        self._page.check(later > 0 and not evidence.flows_of(later), "accepted for later: no flow of it now")

    def deny(self) -> None:
        """Packets are dropped, and only those."""
        self._pings("h3", SERVER, True, "before")
        self._say("root", "NewShare aAC for (dstHost=10.0.0.2) [deny = True] on rootShare.")
        self._say("root", "Grant aAC to Alice.")
        request = self._say("Alice", "deny(dstHost=10.0.0.2, srcHost=10.0.0.3) on aAC from now to +5min.", "OK id=*")
        self._has_flows(request, "drop")
        self._pings("h3", SERVER, False, "during")
        self._pings("h1", SERVER, True, "during, others go on")
        _, actions = evidence.trace(scene.packet(3, 2, "icmp"))
        self._page.check(actions == "drop", f"ofproto/trace h3 -> h2: datapath actions: {actions}")
        self._page.note("Five minutes are long for a demo: Alice takes it back, and asks for a shorter one.")
        self._say("Alice", f"Cancel {request}.")
        self._page.check(until(lambda: not evidence.flows_of(request)), f"no flow of request {request} any more")
        self._pings("h3", SERVER, True, "after")

    def deny_ends(self) -> None:
        """A deny ends by itself at its time."""
        self._page.note("h3 pings h2 twenty times a second all the while.")
        with evidence.pinging("h3", SERVER) as answers:
            time.sleep(0.5)
            asked = time.time()
            statement = f"deny(dstHost=10.0.0.2, srcHost=10.0.0.3) on aAC from now to +{SHORT_DENY}s."
            self._has_flows(self._say("Alice", statement, "OK id=*"), "drop")
            time.sleep(max(0.0, asked + SHORT_DENY + 1.5 - time.time()))
        last, first = answers.longest_silence()
        silence = first - last
        self._page.check(
            last > 0 and -0.1 < last - asked < 1, f"before: answered, until {last - asked:.2f} s after it was asked"
        )
        self._page.check(abs(silence - SHORT_DENY) < 0.75, f"during: silence for {silence:.2f} s")
        again = f"after: it ended by itself; answered again {first - asked:.2f} s after it was asked"
        self._page.check(bool(answers.times) and answers.times[-1] - first > 0.3, again)

    def limit(self) -> None:
        """A limit holds against more traffic than it allows."""
        self._say("root", "NewShare aNet for (dstHost=10.0.0.2) [reserve <= 15Mb, ratelimit >= 1Mb] on rootShare.")
        self._say("root", "Grant aNet to Alice.")
        stream = evidence.Stream("h3", "h2", SERVER, 5203)
        [free] = evidence.measure(stream, seconds=1)
        request = self._say(
            "Alice", f"ratelimit(dstHost=10.0.0.2, dstPort=5203) = {LIMIT}Mb on aNet to +10min.", "OK id=*"
        )
        self._has_flows(request, "meter:")
        found = {number: what for number, what in evidence.meters().items() if number > evidence.METER_BASE}
        self._page.show(f"meter {number}: {what}" for number, what in found.items())
        [limited] = evidence.measure(stream)
        least, most = LIMIT_RANGE
        text = f"iperf3 h3 -> h2: {free:.1f} Mbit/s before, {limited:.1f} Mbit/s under the limit of {LIMIT}"
        self._page.check(free > 2 * most and least <= limited <= most, text)

    def guarantee(self) -> None:
        """A reservation holds against traffic that would fill the link."""
        self._page.note("Alice gives her first reservation back, and asks for 12 of the 20 Mbit/s that v2 can send.")
        self._say("Alice", f"Cancel {self._first}.")
        statement = f"reserve(user=Alice, dstHost=10.0.0.2, dstPort=5201) = {RESERVED}Mb on aNet to +10min."
        request = self._say("Alice", statement, "OK id=*")
        self._reserved(request, RESERVED, 5201)
        if not scene.KERNEL:
            self._page.skip(
                "the userspace datapath of Open vSwitch ignores set_queue: the queue is there and nobody enforces it."
            )
            self._page.skip(
                "The reply said so (note=unenforced). Two flows side by side are measured on the kernel datapath only."
            )
            return
        streams = evidence.Stream("h1", "h2", SERVER, 5201), evidence.Stream("h3", "h2", SERVER, 5202, udp=scene.SLOW)
        mine, others = evidence.measure(*streams, seconds=5)
        rest = scene.SLOW / 1e6 - RESERVED
        share = GUEST_SHARE.get(scene.GUEST)
        least = RESERVED * share if share else LEAST
        self._page.note("At once: Alice's TCP h1 -> h2, and h3 -> h2 with 20 Mbit/s of UDP, which never gives way.")
        text = f"the reserved flow gets {mine:.1f} Mbit/s of user data (at least {least:.1f} of {RESERVED})"
        self._page.check(mine >= least, text)
        self._page.check(
            abs(others - rest) <= 0.25 * rest, f"the other gets the rest: {others:.1f} Mbit/s (of {rest:.0f})"
        )

    def leave(self, daemon: scene.Daemon) -> None:
        """The daemon ends, then cleanup; `self.before` is how the switch was before ovspane came."""
        running = evidence.flows()
        status = daemon.end()
        self._page.check(status == 0, f"SIGTERM: the daemon ended cleanly (exit status {status})")
        self._page.check(
            evidence.flows() == running, f"its {len(running)} flows stay: accepted requests outlive a restart"
        )
        self._page.show([evidence.tool(*scene.OVSPANE, "cleanup", "--config", str(scene.CONFIG)).strip()])
        meters = [number for number in evidence.meters() if number > evidence.METER_BASE]
        nothing = not evidence.flows() and not evidence.our_queues() and not meters
        self._page.check(nothing, "ovspane cleanup: no flow, queue or meter of ours is left")
        after = evidence.switch_state()
        differs = [name for name, was in self.before.items() if after[name] != was]
        text = "the switch is as it was before ovspane came, with the other owner's flow, meter and QoS"
        self._page.check(not differs, text if not differs else f"{text}: but its {', '.join(differs)} differ")
        self._page.show(
            f"{name}: {line}" for name in differs for line in sorted(set(after[name]) ^ set(self.before[name]))
        )
        self._pings("h3", SERVER, True, "and it goes on switching")
