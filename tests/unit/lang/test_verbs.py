"""The table of verbs."""

from __future__ import annotations

import pytest

from ovspane.lang.parser import parse
from ovspane.lang.verbs import VERBS, help_text, manual


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_each_verb_has_help_and_an_example_that_parses(verb) -> None:  # type: ignore[no-untyped-def]
    assert verb.example.startswith(verb.name)
    parse(verb.example)
    assert verb.synopsis.startswith(verb.name)
    assert verb.example in help_text(verb.name)
    assert verb.name in manual()
    assert verb.help in help_text()
