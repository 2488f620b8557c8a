"""The productions of the grammar: from the tokens after the verb to a statement value. Pure.

Each production takes (cursor, verb), reads up to but not including the final `.`, and raises SyntaxFault.
"""

from __future__ import annotations

from collections.abc import Callable

from ovspane.lang import statements as st
from ovspane.lang import values
from ovspane.lang.predicates import flowgroup
from ovspane.lang.tokens import Cursor

Production = Callable[[Cursor, str], st.Statement]


def _share(cursor: Cursor) -> str:
    return cursor.name("a share's name")


def _interval(cursor: Cursor, end: st.Time = st.FOREVER, *, forever: bool = True) -> tuple[st.Time, st.Time]:
    """[from TIME] [to TIME|forever] and then the end of the statement."""
    start = st.NOW
    expected = "'from', 'to' or the final '.'"
    if cursor.accept("from"):
        start = values.time(cursor)
        expected = "'to' or the final '.'"
    if cursor.accept("to"):
        end = values.time(cursor, forever=forever)
        expected = "the final '.'"
    if cursor.word != ".":
        raise cursor.fault(expected)
    return start, end


def _tail(cursor: Cursor) -> tuple[bool, str, st.Time, st.Time]:
    """[strict|partial] on SHARE [from TIME] [to TIME|forever]: (partial, share, start, end)."""
    # `strict` is a keyword only here, so a share may still be called so.
    partial = cursor.accept("partial")
    given = partial or cursor.accept("strict")
    cursor.expect("on", "'on'" if given else "'on', 'strict' or 'partial'")
    return partial, _share(cursor), *_interval(cursor)


def access(cursor: Cursor, verb: str) -> st.Statement:
    """allow or deny: FLOWGROUP [partial] on SHARE [interval]."""
    group = flowgroup(cursor)
    partial, share, start, end = _tail(cursor)
    return st.Ask(st.Kind(verb), group, share, partial=partial, start=start, end=end)


def bandwidth(cursor: Cursor, verb: str) -> st.Statement:
    """reserve or ratelimit: FLOWGROUP = RATE [partial] on SHARE [interval]."""
    group = flowgroup(cursor)
    cursor.expect("=", "'=' and a rate")
    rate = values.rate(cursor)
    partial, share, start, end = _tail(cursor)
    return st.Ask(st.Kind(verb), group, share, rate=rate, partial=partial, start=start, end=end)


def path(cursor: Cursor, verb: str) -> st.Statement:
    """waypoint or avoid: FLOWGROUP = PLACE [partial] on SHARE [interval]."""
    group = flowgroup(cursor)
    cursor.expect("=", "'=' and a place")
    place = cursor.name("a place's name")
    partial, share, start, end = _tail(cursor)
    return st.Ask(st.Kind(verb), group, share, place=place, partial=partial, start=start, end=end)


HINT_WORDS = ("short", "long", "bursty", "background")
_HINT_VALUES: dict[str, Callable[[Cursor], int | st.Time]] = {
    "size": values.size,
    "deadline": values.time,
    "rate": values.rate,
}
HINTS = (*HINT_WORDS, *_HINT_VALUES)


def _hint_item(cursor: Cursor) -> st.HintItem:
    name = cursor.word
    if name not in HINTS:
        raise cursor.fault("a hint: " + ", ".join(HINTS))
    cursor.at += 1
    if name in HINT_WORDS:
        return st.HintItem(name)
    cursor.expect("=")
    return st.HintItem(name, _HINT_VALUES[name](cursor))


def hint(cursor: Cursor, _verb: str) -> st.Statement:
    """FLOWGROUP = ITEM {, ITEM} on SHARE [interval]."""
    group = flowgroup(cursor)
    cursor.expect("=", "'=' and a hint")
    items = [_hint_item(cursor)]
    while cursor.accept(","):
        items.append(_hint_item(cursor))
    cursor.expect("on", "',' or 'on'")
    share = _share(cursor)
    start, end = _interval(cursor)
    return st.GiveHint(group, tuple(items), share, start, end)


def traffic(cursor: Cursor, _verb: str) -> st.Statement:
    """FLOWGROUP on SHARE [interval]; the interval has an end."""
    group = flowgroup(cursor)
    cursor.expect("on")
    share = _share(cursor)
    return st.Traffic(group, share, *_interval(cursor, st.NOW, forever=False))


def available(cursor: Cursor, _verb: str) -> st.Statement:
    """FLOWGROUP on SHARE [interval]."""
    group = flowgroup(cursor)
    cursor.expect("on")
    share = _share(cursor)
    return st.Available(group, share, *_interval(cursor))


def list_requests(cursor: Cursor, _verb: str) -> st.Statement:
    """[on SHARE]."""
    if not cursor.accept("on"):
        if cursor.word != ".":
            raise cursor.fault("'on' or the final '.'")
        return st.ListRequests()
    return st.ListRequests(_share(cursor))


def of_flowgroup(make: Callable[..., st.Statement]) -> Production:
    """The production of a statement that is made of a flowgroup alone."""
    return lambda cursor, _verb: make(flowgroup(cursor))


def of_name(make: Callable[..., st.Statement], what: str) -> Production:
    """The production of a statement that is made of a name alone; `what` names it in a fault: "a share's name"."""
    return lambda cursor, _verb: make(cursor.name(what))


def of_nothing(make: Callable[[], st.Statement]) -> Production:
    """The production of a verb that has nothing after it."""
    return lambda _cursor, _verb: make()


def grant(cursor: Cursor, _verb: str) -> st.Statement:
    """SHARE to PRINCIPAL."""
    share = _share(cursor)
    cursor.expect("to")
    return st.Grant(share, cursor.name("a principal's name"))


def revoke(cursor: Cursor, _verb: str) -> st.Statement:
    """SHARE from PRINCIPAL [and end]."""
    share = _share(cursor)
    cursor.expect("from")
    principal = cursor.name("a principal's name")
    if not cursor.accept("and"):
        if cursor.word != ".":
            raise cursor.fault("'and end' or the final '.'")
        return st.Revoke(share, principal)
    cursor.expect("end")
    return st.Revoke(share, principal, end=True)


# --- shares

_FLAGS = ("allow", "deny", "hint", "query")
_PLACES = ("waypoint", "avoid")
NUMBERS = ("requests", "shares", "flows", "queues", "grants")


def _number(cursor: Cursor) -> int:
    return values.integer(cursor, 0, values.LARGEST, "a number")


def _length(cursor: Cursor) -> int:
    at = cursor.at
    moment = values.time(cursor)
    if moment.kind is not st.TimeKind.RELATIVE or moment.ms <= 0:
        raise cursor.fault("a length of time, as 30d", cursor.at - at)
    return moment.ms


_BOUNDS: dict[tuple[str, str], tuple[str, Callable[[Cursor], int]]] = {
    ("reserve", "<="): ("reserve_max", values.rate),
    ("reserve", ">="): ("reserve_min", values.rate),
    ("ratelimit", ">="): ("ratelimit_min", values.rate),
    ("reserveTBCapacity", "="): ("tb_capacity", values.volume),
    ("reserveTBFill", "="): ("tb_fill", values.rate),
    **{(name, "<="): (name, _number) for name in NUMBERS},
    ("horizon", "<="): ("horizon", _length),
}
PRIVILEGES = ("reserve", "ratelimit", "reserveTBCapacity", "reserveTBFill", *_FLAGS, *_PLACES, *NUMBERS, "horizon")


def _places(cursor: Cursor) -> bool | frozenset[str]:
    if not cursor.accept("{"):
        if cursor.word not in ("True", "False"):
            raise cursor.fault("True, False or '{' and places")
        return values.boolean(cursor)
    places = {cursor.name("a place's name")}
    while cursor.accept(","):
        places.add(cursor.name("a place's name"))
    cursor.expect("}", "',' or '}'")
    return frozenset(places)


def _privilege(cursor: Cursor) -> tuple[str, int | bool | frozenset[str]]:
    """One privilege as (field of PrivilegeSpec, value)."""
    word = cursor.word
    if word not in PRIVILEGES:
        raise cursor.fault("']' or a privilege: " + ", ".join(PRIVILEGES))
    cursor.at += 1
    if word in _FLAGS or word in _PLACES:
        cursor.expect("=")
        return word, (values.boolean(cursor) if word in _FLAGS else _places(cursor))
    bound = _BOUNDS.get((word, cursor.word))
    if bound is None:
        raise cursor.fault(" or ".join(f"'{sign}'" for name, sign in _BOUNDS if name == word))
    cursor.at += 1
    return bound[0], bound[1](cursor)


def _privileges(cursor: Cursor) -> st.PrivilegeSpec:
    """Privileges up to the `]`, separated by blanks or commas, each at most once."""
    given: dict[str, int | bool | frozenset[str]] = {}
    while not cursor.accept("]"):
        first = cursor.at
        field, value = _privilege(cursor)
        if field in given:
            raise cursor.fault("each privilege once", cursor.at - first)
        given[field] = value
        if cursor.accept(",") and cursor.word == "]":
            raise cursor.fault("a privilege after ','")
    return st.PrivilegeSpec(**given)  # type: ignore[arg-type]  # the fields' types are those of _BOUNDS, _FLAGS, _PLACES


def new_share(cursor: Cursor, _verb: str) -> st.Statement:
    """NAME for FLOWGROUP [PRIVILEGES] on PARENT."""
    name = cursor.name("the new share's name")
    cursor.expect("for")
    group = flowgroup(cursor)
    cursor.expect("[", "'[' and privileges")
    privileges = _privileges(cursor)
    cursor.expect("on", "'on' and the parent share")
    return st.NewShare(name, group, privileges, _share(cursor))


def cancel(cursor: Cursor, _verb: str) -> st.Statement:
    """The number of a request."""
    return st.Cancel(values.integer(cursor, 0, values.LARGEST, "the number of a request"))


# --- system

LARGEST_ID = 2**32 - 2  # uid_t and gid_t; (uid_t) -1 means "no change" to chown(2) and is nobody's
BINDINGS = ("uid", "gid", "cert")
FORMATS = ("text", "json")


def add_user(cursor: Cursor, _verb: str) -> st.Statement:
    """NAME [as uid|gid NUMBER, or as cert "NAME"]."""
    name = cursor.name("a principal's name")
    if not cursor.accept("as"):
        if cursor.word != ".":
            raise cursor.fault("'as' or the final '.'")
        return st.AddUser(name)
    kind = cursor.word
    if kind not in BINDINGS:
        raise cursor.fault("'uid', 'gid' or 'cert'")
    cursor.at += 1
    if kind == "cert":
        return st.AddUser(name, st.Binding(kind, cursor.string("the certificate's name in double quotes")))
    return st.AddUser(name, st.Binding(kind, str(values.integer(cursor, 0, LARGEST_ID, f"a {kind}"))))


def locate(cursor: Cursor, _verb: str) -> st.Statement:
    """NAME at ADDRESSES."""
    name = cursor.name("a principal's name")
    cursor.expect("at")
    return st.Locate(name, values.addresses(cursor))


def set_format(cursor: Cursor, _verb: str) -> st.Statement:
    """text or json."""
    if cursor.word not in FORMATS:
        raise cursor.fault("'text' or 'json'")
    return st.Format(cursor.next_word())


def tick(cursor: Cursor, _verb: str) -> st.Statement:
    """A number of seconds (see `statements.Tick`)."""
    return st.Tick(values.integer(cursor, 0, 10**12, "a number of seconds"))
