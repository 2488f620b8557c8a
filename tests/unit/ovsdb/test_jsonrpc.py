"""JSON-RPC's framing: messages out of a stream however it is cut; the addresses of remotes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovspane.ovsdb.jsonrpc import Framer, split_remotes

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


@given(st.lists(st.dictionaries(st.text(max_size=4), json_values), max_size=4), st.integers(1, 40), st.booleans())
def test_framer_finds_every_message_however_the_stream_is_cut(messages: list[object], step: int, ascii: bool) -> None:
    stream = b"".join(json.dumps(message, ensure_ascii=ascii).encode() for message in messages)
    framer = Framer()
    texts = [text for at in range(0, len(stream), step) for text in framer.feed(stream[at : at + step])]
    assert [json.loads(text) for text in texts] == messages


def test_framer_refuses_what_is_not_json_rpc() -> None:
    with pytest.raises(ValueError, match="unbalanced"):
        Framer().feed(b'{"a": 1}}')


def test_remotes() -> None:
    assert split_remotes("tcp:a:6641, ssl:[::1]:6642,unix:/x") == ["tcp:a:6641", "ssl:[::1]:6642", "unix:/x"]
    for bad in ("", "udp:a:1", "tcp:a", "unix:", "tcp:a:x"):
        with pytest.raises(ValueError, match="remote"):
            split_remotes(bad)
