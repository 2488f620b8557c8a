"""Each class of error with its place and what was expected there."""

from __future__ import annotations

import pytest

from ovspane.lang.parser import SyntaxFault, parse


def test_a_statement_that_is_wrong_and_contradictory_is_wrong() -> None:
    with pytest.raises(SyntaxFault):
        parse("deny(user=A, user=B) off s.")


FAULTS = [
    (".", 1, 1, "a verb"),
    ("", 1, 1, "a verb"),
    ("Whoami", 1, 7, "the final '.'"),
    ("Whoami .\n Whoami.", 2, 2, "nothing after"),
    ("Reserve(*) = 5 on s.", 1, 1, "'reserve'"),
    ("frobnicate.", 1, 1, "a verb: reserve"),
    ("Check Check Whoami.", 1, 7, "other than Check"),
    ("reserve(*) on s.", 1, 12, "'=' and a rate"),
    ("reserve(*)\n  = fast on s.", 2, 5, "a rate, as 5Mb"),
    ("reserve(*) = 5MB on s.", 1, 14, "a rate, as 5Mb"),
    ("reserve(*) = -5 on s.", 1, 14, "a rate"),
    ("reserve(*) = 9007200Gb on s.", 1, 14, "a rate below"),
    ("reserve(*) = " + "9" * 5000 + " on s.", 1, 14, "a rate below"),
    ("reserve(*) = 9007199254740993b on s.", 1, 14, "a rate below"),
    ("hint(*) = size=9008TB on s.", 1, 16, "a size below"),
    ("hint(*) = loud on s.", 1, 11, "a hint: short"),
    ("hint(*) = short long on s.", 1, 17, "',' or 'on'"),
    ("reserve(*) = 5 an s.", 1, 16, "'on', 'strict' or 'partial'"),
    ("reserve(*) = 5 strict s.", 1, 23, "'on'"),
    ("reserve(*) = 5 on .", 1, 19, "a share's name"),
    ("Show " + "x" * 64 + ".", 1, 6, "at most 63 characters"),
    ("Show a:b.", 1, 6, "the name of"),
    ("deny(*) on s until 5.", 1, 14, "'from', 'to' or the final '.'"),
    ("deny(*) on s from 1 2.", 1, 21, "'to' or the final '.'"),
    ("deny(*) on s to 1 from 2.", 1, 19, "the final '.'"),
    ("deny(*) on s from forever.", 1, 19, "a time"),
    ("traffic(*) on s to forever.", 1, 20, "a time"),
    ("deny(*) on s to 5weeks.", 1, 17, "one of the units"),
    ("deny(*) on s to + now.", 1, 19, "a number"),
    ("deny(*) on s to 2026-11-01T10:00:00.", 1, 17, "a zone"),
    ("deny(*) on s to 2026-13-01T10:00:00Z.", 1, 17, "a date and time that exist"),
    ("deny(*) on s to 99999999999999999999.", 1, 17, "285 000 years"),
    ("deny * on s.", 1, 6, "a flowgroup: '('"),
    ("deny(*, user=A) on s.", 1, 7, "')'"),
    ("deny(colour=red) on s.", 1, 6, "a field: user"),
    ("deny(user:A) on s.", 1, 6, "a field: user"),
    ("deny(user==A) on s.", 1, 11, "a user's name"),
    ("deny(user=A dstPort=80) on s.", 1, 13, "',' or ')'"),
    ("deny(user=A,) on s.", 1, 13, "a field"),
    ("deny(srcHost=10.0.0) on s.", 1, 14, "an IPv4 or IPv6 address"),
    ("deny(srcHost=10.0.0.256) on s.", 1, 14, "an IPv4 or IPv6 address"),
    ("deny(srcHost=10.0.0.0/33) on s.", 1, 23, "a prefix length of 0 to 32"),
    ("deny(srcHost=::/129) on s.", 1, 17, "a prefix length of 0 to 128"),
    ("deny(srcHost={}) on s.", 1, 15, "an IPv4 or IPv6 address"),
    ("deny(srcHost={10.0.0.1;) on s.", 1, 23, "a word or a symbol"),
    ("deny(srcHost={10.0.0.1 on s.", 1, 24, "',' or '}'"),
    ("deny(dstPort=65536) on s.", 1, 14, "a port of 0 to 65535"),
    ("deny(dstPort=http) on s.", 1, 14, "a port of 0 to 65535"),
    ("deny(dstPort=80-) on s.", 1, 17, "a port of 0 to 65535"),
    ("deny(dstPort>80) on s.", 1, 13, "'<=' or '>='"),
    ("deny(dstPort 80) on s.", 1, 14, "'=', '<=' or '>='"),
    ("deny(transport=tcp) on s.", 1, 16, "TCP, UDP, ICMP"),
    ("deny(transport=256) on s.", 1, 16, "TCP, UDP, ICMP"),
    ("deny(vlan=4095) on s.", 1, 11, "0 to 4094"),
    ("deny(dscp=64) on s.", 1, 11, "0 to 63"),
    ("deny(dscp=0x10) on s.", 1, 11, "0 to 63"),
    ("deny(ethType=0x10000) on s.", 1, 14, "0 to 65535"),
    ("deny(srcEth=00:11:22:33:44) on s.", 1, 13, "a MAC address"),
    ("NewShare a for (*) on s.", 1, 20, "'[' and privileges"),
    ("NewShare a for (*) [deny] on s.", 1, 25, "'='"),
    ("NewShare a for (*) [deny=true] on s.", 1, 26, "True or False"),
    ("NewShare a for (*) [avoid=s1] on s.", 1, 27, "True, False or '{'"),
    ("NewShare a for (*) [reserve = 5] on s.", 1, 29, "'<=' or '>='"),
    ("NewShare a for (*) [ratelimit <= 5] on s.", 1, 31, "'>='"),
    ("NewShare a for (*) [deny=True, deny=True] on s.", 1, 32, "each privilege once"),
    ("NewShare a for (*) [deny=True,] on s.", 1, 31, "a privilege after ','"),
    ("NewShare a for (*) [fly=True] on s.", 1, 21, "']' or a privilege"),
    ("NewShare a for (*) [", 1, 21, "']' or a privilege"),
    ("Cancel x.", 1, 8, "the number of a request"),
    ("Tick 1.5.", 1, 6, "a number of seconds"),
    ("AddUser A as pid 5.", 1, 14, "'uid', 'gid' or 'cert'"),
    ("AddUser A as uid 4294967295.", 1, 18, "a uid of"),
    ("AddUser A as cert b.", 1, 19, "in double quotes"),
    ('AddUser A as cert "b.', 1, 19, "the closing '\"'"),
    ("AddUser A, B.", 1, 10, "'as' or the final '.'"),
    ("Format xml.", 1, 8, "'text' or 'json'"),
    ("Tick /* five.", 1, 6, "the closing '*/'"),
    ("Tick # 5\n5.", 1, 6, "a word or a symbol"),
    ("Show Zoë.", 1, 8, "a word or a symbol"),
    ("Show \x00.", 1, 6, "a word or a symbol"),
]


@pytest.mark.parametrize(("text", "line", "column", "expected"), FAULTS, ids=[case[0][:40] for case in FAULTS])
def test_fault_says_where_and_what(text: str, line: int, column: int, expected: str) -> None:
    with pytest.raises(SyntaxFault) as caught:
        parse(text)
    assert (caught.value.line, caught.value.column) == (line, column)
    assert expected in caught.value.expected
