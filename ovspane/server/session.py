"""A conversation in the language: statements from the stream to the service, what is about the connection itself
answered here.

As, Format, Subscribe, Unsubscribe and Whoami are the session's own. `As` and Format hold from the next statement on,
though earlier ones are still being worked on; notices change their form, and Subscribe takes effect, when the answer to
that is given. Who speaks is found out again whenever shares or principals changed.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Callable, Sequence

from ovspane.lang import statements
from ovspane.lang.parser import parse
from ovspane.lang.replies import Notice, Reply, Value, err, no, ok
from ovspane.lang.splitter import Piece, Splitter
from ovspane.lang.statements import Statement
from ovspane.lang.tokens import SyntaxFault
from ovspane.loop import RateLimitedLog
from ovspane.packets.flowgroup import Contradiction
from ovspane.policy.admission.judgement import is_guest
from ovspane.policy.state.shares import ADMINISTRATOR, EVERYBODY
from ovspane.server.channel import Channel
from ovspane.server.fair_queue import Account
from ovspane.server.limits import DEFAULT_LIMITS, HEAVY_TEXT, ConnectionLimits
from ovspane.server.output_stream import Answer, Show
from ovspane.server.peers import CERTIFICATE, Peer
from ovspane.server.service import Service

log = logging.getLogger(__name__)
rarely = RateLimitedLog(log)

#: after so many seconds without another byte, `Cancel 17.` at the end of what came is a whole statement
SETTLE = 0.05
#: but only one of at most so many characters: it is parsed to see, maybe again and again
LONGEST_SETTLED = 4096
#: characters of a statement that is parsed beside the event loop: some tenths of a millisecond for each thousand
LONG_TEXT = 4096
#: the group whose turns all guests share
GUESTS = "guests:"
#: the weight of a statement with an answer as long as the state is large
HEAVY = 16
_LISTINGS = (
    statements.ListShares,
    statements.ListSharesByFlowGroup,
    statements.ListRequests,
    statements.GetSchedule,
    statements.Show,
)


def _parsed(text: str) -> Statement | Reply:
    """The statement; or the reply to what is none."""
    try:
        return parse(text)
    except SyntaxFault as fault:
        return err(fault.line, fault.column, fault.expected)
    except Contradiction as contradiction:
        return no("contradiction", str(contradiction))
    except Exception:  # a defect in the parser must not cost the peer its connection
        rarely.error("parsing a statement failed: %.200r", text)
        log.debug("parsing failed", exc_info=True)
        return no("internal", "ovspane has a defect here; its log says more")


class ClientSession(Channel):
    """One connection of a peer."""

    def __init__(
        self,
        service: Service,
        peer: Peer | None,
        account: str | None = None,
        limits: ConnectionLimits = DEFAULT_LIMITS,
        on_lost: Callable[[Channel], None] = lambda channel: None,
    ) -> None:
        self._splitter = Splitter()
        super().__init__(self._splitter, limits, on_lost)
        self._service = service
        self._peer = peer
        self._account = account
        self._principal = ""
        self._turns: Account = ("", "")  # whose turns it takes
        self._seen = -1  # the service's generation that `_principal` is of
        self._as: str | None = None
        self._json = False  # what notices are in
        self._json_said = False  # what the answers to the statements that come now will be in
        self._unsubscribe: Callable[[], None] | None = None
        self._settling: asyncio.TimerHandle | None = None

    @property
    def peer(self) -> Peer | None:
        """Who is at the other end; None: not known yet."""
        return self._peer

    @property
    def principal(self) -> str:
        """Whose connection it is, now."""
        if self._seen != self._service.generation:
            assert self._peer is not None
            self._principal = self._peer.principal(self._service.committed, self._account)
            self._seen = self._service.generation
            self._turns = (GUESTS, self._principal) if is_guest(self._principal) else (self._principal, "")
            self._out.account = self._turns
        return self._principal

    @property
    def speaker(self) -> str:
        """As whom it speaks: the principal, or for root the one named by As."""
        principal = self.principal
        return self._as if self._as is not None and principal == ADMINISTRATOR else principal

    # --- Channel

    def idle(self) -> None:
        """See Channel. What came may end with `17.`: after SETTLE without a further byte that is the end of a
        statement."""
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None
        if self._splitter.undecided:
            self._settling = asyncio.get_running_loop().call_later(SETTLE, self._settle)

    def _settle(self) -> None:
        self._settling = None
        if self._whole():
            self.handle_late(self._splitter.settle())

    def _whole(self) -> bool:
        """True iff what came is a statement if its dot is the final one. Else the peer (or its network) only stalled
        after `10.` of `10.0.0.2`: no statement is whole where a number or an address may be cut."""
        [piece] = copy.deepcopy(self._splitter).settle() or [Piece()]
        if not piece.text or len(piece.text) > LONGEST_SETTLED:
            return False
        try:
            parse(piece.text)
        except SyntaxFault:
            return False
        except Contradiction:
            return True
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.BaseProtocol: ends the subscription, too."""
        if self._settling is not None:
            self._settling.cancel()
        self._subscribe(False)
        super().connection_lost(exc)

    def handle(self, piece: Piece) -> None:
        """See Channel: parse a statement; the service answers it, or the session itself if it is about the
        connection."""
        if piece.fault is not None:
            self._reply(err(piece.fault.line, piece.fault.column, piece.fault.expected))
        elif len(piece.text) <= LONG_TEXT:
            self._take_up(_parsed(piece.text), len(piece.text))
        else:
            _ = self.principal  # whose turn it is
            parsed: asyncio.Future[Statement | Reply] = asyncio.get_running_loop().create_future()
            parsed.add_done_callback(lambda done: self._take_up(done.result(), len(piece.text)))
            self.hold(parsed)
            self._service.offload.submit(self._turns, lambda: _parsed(piece.text), parsed)

    def _take_up(self, parsed: Statement | Reply, size: int) -> None:
        """Perform a statement that was `size` characters of text, or say why it is none."""
        if isinstance(parsed, Reply):
            self._reply(parsed)
        else:
            self._perform(parsed, 1 + size // HEAVY_TEXT)

    # --- statements

    def _perform(self, statement: Statement, weight: int) -> None:
        match statement := statements.meant(statement):
            case statements.As(name=name):
                self._speak_as(name)
            case statements.Format(name=name):
                self._json_said = name == "json"
                self._when_due(lambda: self._format(name))
            case statements.Subscribe():
                self._when_due(lambda: self._subscribe(True))
            case statements.Unsubscribe():
                self._when_due(lambda: self._subscribe(False))
            case statements.Whoami():
                self._reply(self._whoami())
            case statements.ListTopology():
                self._topology(weight + HEAVY)
            case statements.Tick():
                self._reply(no("not-here", "Tick moves the clock of a replay; here time passes by itself"))
            case _:
                if isinstance(statement, _LISTINGS):
                    weight += HEAVY
                reply = self._service.submit(self.speaker, statement, self._turns)
                self.answer(reply, self._show(), weight)

    def _show(self) -> Show:
        return Reply.json_pieces if self._json_said else Reply.text_pieces

    def _topology(self, weight: int) -> None:
        if self.speaker != ADMINISTRATOR:  # it names everybody's addresses
            self._reply(no("not-root", f"only {ADMINISTRATOR} may see the network"))
            return
        self.answer(asyncio.ensure_future(self._service.topology()), self._show(), weight)

    def _reply(self, reply: Reply) -> None:
        self._when_due(lambda: reply)

    def _when_due(self, answer: Answer) -> None:
        self.answer(answer, self._show())

    def _speak_as(self, name: str) -> None:
        if self.principal != ADMINISTRATOR:
            self._reply(no("not-root", f"only {ADMINISTRATOR} may speak as another"))
        elif name == EVERYBODY:
            self._reply(no("bad-name", f"{EVERYBODY} is nobody in particular"))
        else:
            self._as = None if name == ADMINISTRATOR else name
            # Looked at when the answer is due: an AddUser may be on its way.
            self._when_due(lambda: ok() if self._service.committed.has_principal(name) else ok(note="user-unknown"))

    def _whoami(self) -> Reply:
        fields: dict[str, Value] = {"principal": self.principal}
        if self.speaker != self.principal:
            fields["as"] = self.speaker
        if self.principal.startswith(CERTIFICATE):
            fields["note"] = "not-bound"
        return ok(**fields)

    def _format(self, name: str) -> Reply:
        self._json = name == "json"
        return ok()

    # --- notices

    def _subscribe(self, wanted: bool) -> Reply:
        if wanted and self._unsubscribe is None:
            self._unsubscribe = self._service.subscribe(self._on_notices)
        elif not wanted and self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        return ok()

    def _on_notices(self, notices: Sequence[Notice]) -> None:
        speaker = self.speaker
        for notice in notices:
            if speaker == ADMINISTRATOR or not notice.principals or speaker in notice.principals:
                mine = notice.to(speaker)
                self.notify(mine.to_json() if self._json else mine.to_text())

    def dropped_notice(self, count: int) -> str:
        """See Channel: in the form of the other notices."""
        notice = Notice("dropped", f"{count} notices that were not read in time", fields={"count": count})
        return notice.to_json() if self._json else notice.to_text()
