"""The one table of verbs: the parser, help, completion, the bash completion and ovspane(7) are all made from it. Pure.

A synopsis is `words, slots and [optional | alternatives]`; slots are upper case and name what stands there (`SLOTS`).
It leaves out the final `.`. Each example is a whole statement that parses.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

from ovspane.lang import productions as p
from ovspane.lang import statements as st

#: slot -> what it means (help and the manual page)
SLOTS: dict[str, str] = {
    "SHARE": "the name of a share",
    "PRINCIPAL": "the name of a principal",
    "NEWNAME": "a new name: letters, digits, _ $ -, at most 63",
    "PLACE": "the name of a place on the network",
    "FLOWGROUP": "(predicate, …) or (*) for all packets, as (user=Alice, dstPort=80)",
    "RATE": "a number with b, kb, Mb or Gb (bit/s); a bare number is Mb",
    "TIME": "now, +10min, seconds since the epoch, or ISO-8601 with a zone",
    "END": "a TIME, or forever",
    "HINTS": "short, long, bursty, background, size=10MB, deadline=+5min, rate=5Mb, separated by commas",
    "PRIVILEGES": "[reserve <= 10Mb, deny = True, requests <= 100, …]",
    "ADDRESSES": "an address or prefix, or {several, separated by commas}",
    "BINDING": 'uid N, gid N or cert "NAME"',
    "REQUEST": "the number of a request, as OK id=17 said",
    "FORMAT": "text or json",
    "SECONDS": "a number of seconds",
    "STATEMENT": "any other statement",
}


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb. `read` is None for those whose argument is a statement itself."""

    name: str
    group: str
    synopsis: str
    help: str
    example: str
    read: p.Production | None


_TAIL = "[strict | partial] on SHARE [from TIME] [to END]"

VERBS: tuple[Verb, ...] = (
    Verb(
        "reserve",
        "requests",
        f"reserve FLOWGROUP = RATE {_TAIL}",
        "guarantee a bandwidth to a flowgroup",
        "reserve(user=Alice, dstPort=80) = 5Mb on aBW from now to +10min.",
        p.bandwidth,
    ),
    Verb(
        "ratelimit",
        "requests",
        f"ratelimit FLOWGROUP = RATE {_TAIL}",
        "hold a flowgroup's total under a rate",
        "ratelimit(srcHost=10.0.0.0/24) = 2.5Mb on net0 to +1h.",
        p.bandwidth,
    ),
    Verb(
        "allow",
        "requests",
        f"allow FLOWGROUP {_TAIL}",
        "let a flowgroup's packets pass",
        "allow(dstHost=10.0.0.2, dstPort=22) on aAC.",
        p.access,
    ),
    Verb(
        "deny",
        "requests",
        f"deny FLOWGROUP {_TAIL}",
        "drop a flowgroup's packets",
        "deny(dstHost=10.0.0.2, srcHost=10.0.0.3) on aAC from now to +5min.",
        p.access,
    ),
    Verb(
        "waypoint",
        "requests",
        f"waypoint FLOWGROUP = PLACE {_TAIL}",
        "send a flowgroup through a place",
        "waypoint(dstPort=80) = firewall on net0.",
        p.path,
    ),
    Verb(
        "avoid",
        "requests",
        f"avoid FLOWGROUP = PLACE {_TAIL}",
        "keep a flowgroup away from a place",
        "avoid(user=Alice) = s3 on net0 to forever.",
        p.path,
    ),
    Verb(
        "hint",
        "requests",
        "hint FLOWGROUP = HINTS on SHARE [from TIME] [to END]",
        "tell the network about traffic; asks for nothing",
        "hint(user=Alice, dstPort=873) = background, size=10GB, deadline=+2h on aBW.",
        p.hint,
    ),
    Verb("Cancel", "requests", "Cancel REQUEST", "end an own request (root: any)", "Cancel 17.", p.cancel),
    Verb(
        "Check",
        "requests",
        "Check STATEMENT",
        "say what a statement would get, and change nothing",
        "Check reserve(user=Alice) = 5Mb on aBW.",
        None,
    ),
    Verb(
        "WhatIf",
        "requests",
        "WhatIf STATEMENT",
        "the same, with the rules that would come and go, and whom it would override",
        "WhatIf deny(dstPort=22) partial on aAC.",
        None,
    ),
    Verb(
        "available",
        "queries",
        "available FLOWGROUP on SHARE [from TIME] [to END]",
        "how much a reservation could get",
        "available(user=Alice) on aBW from now to +30min.",
        p.available,
    ),
    Verb(
        "traffic",
        "queries",
        "traffic FLOWGROUP on SHARE [from TIME] [to TIME]",
        "bytes and packets of a flowgroup",
        "traffic(user=Alice) on aBW from -1h to now.",
        p.traffic,
    ),
    Verb(
        "GetSchedule",
        "queries",
        "GetSchedule SHARE",
        "what is reserved on a share, over time",
        "GetSchedule aBW.",
        p.of_name(st.GetSchedule, "a share's name"),
    ),
    Verb("ListShares", "queries", "ListShares", "the shares", "ListShares.", p.of_nothing(st.ListShares)),
    Verb(
        "ListSharesByFlowGroup",
        "queries",
        "ListSharesByFlowGroup FLOWGROUP",
        "the shares whose flowgroup contains this one",
        "ListSharesByFlowGroup(srcHost=10.0.0.1).",
        p.of_flowgroup(st.ListSharesByFlowGroup),
    ),
    Verb(
        "ListRequests",
        "queries",
        "ListRequests [on SHARE]",
        "the requests, active and to come",
        "ListRequests on aBW.",
        p.list_requests,
    ),
    Verb(
        "Explain",
        "queries",
        "Explain FLOWGROUP",
        "what happens to these packets, and why",
        "Explain(srcHost=10.0.0.3, dstHost=10.0.0.2).",
        p.of_flowgroup(st.Explain),
    ),
    Verb(
        "Show",
        "queries",
        "Show SHARE",
        "all about one share or principal",
        "Show aBW.",
        p.of_name(st.Show, "the name of a share or a principal"),
    ),
    Verb(
        "ListTopology",
        "queries",
        "ListTopology",
        "the bridges, ports, links and hosts of the network, and how each was learned (root only)",
        "ListTopology.",
        p.of_nothing(st.ListTopology),
    ),
    Verb(
        "Whoami",
        "queries",
        "Whoami",
        "the principal that this connection speaks as",
        "Whoami.",
        p.of_nothing(st.Whoami),
    ),
    Verb(
        "NewShare",
        "shares",
        "NewShare NEWNAME for FLOWGROUP PRIVILEGES on SHARE",
        "make a share below another one",
        "NewShare aBW for (user=Alice) [reserve <= 10Mb] on rootShare.",
        p.new_share,
    ),
    Verb(
        "Grant",
        "shares",
        "Grant SHARE to PRINCIPAL",
        "let a principal speak on a share",
        "Grant aBW to Alice.",
        p.grant,
    ),
    Verb(
        "GrantDefault",
        "shares",
        "GrantDefault SHARE",
        "let everybody speak on a share",
        "GrantDefault net0.",
        p.of_name(st.GrantDefault, "a share's name"),
    ),
    Verb(
        "Revoke",
        "shares",
        "Revoke SHARE from PRINCIPAL [and end]",
        "take back what was granted, and every right that rests on it; `and end`: with the requests made by it",
        "Revoke aBW from Alice and end.",
        p.revoke,
    ),
    Verb(
        "DropShare",
        "shares",
        "DropShare SHARE",
        "end a share, those below it and all their requests",
        "DropShare aBW.",
        p.of_name(st.DropShare, "a share's name"),
    ),
    Verb(
        "AddUser",
        "system",
        "AddUser NEWNAME [as BINDING]",
        "make a principal",
        "AddUser Alice as uid 1000.",
        p.add_user,
    ),
    Verb(
        "DropUser",
        "system",
        "DropUser PRINCIPAL",
        "end a principal",
        "DropUser Alice.",
        p.of_name(st.DropUser, "a principal's name"),
    ),
    Verb(
        "Locate",
        "system",
        "Locate PRINCIPAL at ADDRESSES",
        "say which addresses a user has",
        "Locate Alice at {10.0.0.1, 2001:db8::/64}.",
        p.locate,
    ),
    Verb(
        "As",
        "system",
        "As PRINCIPAL",
        "speak as another principal (root only)",
        "As Alice.",
        p.of_name(st.As, "a principal's name"),
    ),
    Verb("Format", "system", "Format FORMAT", "choose text or JSON replies", "Format json.", p.set_format),
    Verb(
        "Subscribe", "system", "Subscribe", "get notices on this connection", "Subscribe.", p.of_nothing(st.Subscribe)
    ),
    Verb("Unsubscribe", "system", "Unsubscribe", "get no more notices", "Unsubscribe.", p.of_nothing(st.Unsubscribe)),
    Verb("Tick", "system", "Tick SECONDS", "move the manual clock of a replay", "Tick 60.", p.tick),
)

BY_NAME: dict[str, Verb] = {verb.name: verb for verb in VERBS}
GROUPS = ("requests", "queries", "shares", "system")


def help_text(name: str = "") -> str:
    """Help on one verb, or the list of all. An unknown name gets the list, with a word on it."""
    verb = BY_NAME.get(name)
    if verb is None:
        lines = [f"no verb is called {name}"] if name else []
        for group in GROUPS:
            lines.append(f"{group}:")
            lines += [f"  {verb.name:<22} {verb.help}" for verb in VERBS if verb.group == group]
        return "\n".join([*lines, "Each statement ends with a dot. `help VERB` says more."])
    slots = [slot for slot in SLOTS if slot in verb.synopsis.replace("[", " ").replace("]", " ").split()]
    return "\n".join(
        [
            f"{verb.synopsis}.",
            f"  {verb.help}",
            *(f"  {slot}: {SLOTS[slot]}" for slot in slots),
            f"  Example: {verb.example}",
        ]
    )


def manual() -> str:
    """The reference of the verbs in ovspane(7), in reStructuredText: definition lists under a heading for each
    group."""
    lines: list[str] = []
    for group in GROUPS:
        lines += _heading(group.capitalize())
        for verb in (verb for verb in VERBS if verb.group == group):
            name, _, rest = verb.synopsis.partition(" ")
            lines += [f"**{name}** {rest}".rstrip() + "\\ **.**", f"    {verb.help[0].upper()}{verb.help[1:]}."]
            lines += ["", f"    ``{verb.example}``", ""]
    lines += _heading("Arguments")
    for slot, meaning in SLOTS.items():
        lines += [slot, f"    {meaning.replace('*', chr(92) + '*')}.", ""]
    return "\n".join(lines)


def _heading(text: str) -> list[str]:
    return [text, "-" * len(text), ""]


def _bash_lines() -> Iterator[str]:
    verbs = " ".join(verb.name for verb in VERBS)
    commands = "daemon send shell what-if explain show topology compile replay probe verify cleanup restart-switch"
    commands += " restore cluster"
    yield "# bash completion for ovspane(8); made by `python -m ovspane.lang.verbs --bash` from the table of verbs"
    yield "_ovspane() {"
    yield "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} cmd=${COMP_WORDS[1]}"
    yield '    if [ "$COMP_CWORD" -eq 1 ]; then'
    yield f'        COMPREPLY=($(compgen -W "{commands}" -- "$cur")); return'
    yield "    fi"
    yield "    case $cmd$prev in"
    yield '        topology--format) COMPREPLY=($(compgen -W "text json dot svg" -- "$cur")); return ;;'
    yield "    esac"
    yield "    case $prev in"
    yield '        --format) COMPREPLY=($(compgen -W "text json" -- "$cur")); return ;;'
    yield '        --socket|--config|--state-dir) COMPREPLY=($(compgen -f -- "$cur")); return ;;'
    yield "    esac"
    probe = "--all --json --deliver --rate --most --in-port --socket --config --rundir --ovsdb --bridge --help"
    yield "    case $cmd$cur in"
    yield f'        probe-*) COMPREPLY=($(compgen -W "{probe}" -- "$cur")); return ;;'
    verify = "--format --socket --config --rundir --ovsdb --bridge --help"
    yield f'        verify-*) COMPREPLY=($(compgen -W "{verify}" -- "$cur")); return ;;'
    yield "    esac"
    yield "    case $cur in"
    yield '        -*) COMPREPLY=($(compgen -W "--socket --format --help" -- "$cur")); return ;;'
    yield "    esac"
    yield "    case $cmd in"
    yield f'        send) COMPREPLY=($(compgen -W "{verbs}" -P "${{cur%%[A-Za-z]*}}" -- "${{cur#[\\\'\\"]}}")) ;;'
    yield '        compile|replay) COMPREPLY=($(compgen -f -- "$cur")) ;;'
    yield "    esac"
    yield "}"
    yield "complete -o default -F _ovspane ovspane"


def bash_completion() -> str:
    """The text of completion/ovspane.bash."""
    return "\n".join(_bash_lines()) + "\n"


if __name__ == "__main__":
    sys.stdout.write(bash_completion() if "--bash" in sys.argv[1:] else manual())
