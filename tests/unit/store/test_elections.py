"""Too many leaders, and members that are not heard: the words of ovsdb-server 3.1.0."""

from __future__ import annotations

from ovspane.store.elections import MANY, SPAN, Elections, unheard

STATUS = """fbd8
Name: OVSPane
Address: tcp:127.0.0.1:51257
Status: cluster member
Role: leader
Term: 3
Leader: self
Election timer: 500
Servers:
    56a7 (56a7 at tcp:127.0.0.1:36167) next_index=7 match_index=6 last msg 7481 ms ago
    fbd8 (fbd8 at tcp:127.0.0.1:51257) (self) next_index=5 match_index=6
    d2d9 (d2d9 at tcp:127.0.0.1:44827) next_index=7 match_index=6 last msg 120 ms ago
"""


def test_the_leader_names_who_is_not_heard() -> None:
    [problem] = unheard(STATUS)
    assert problem.startswith("the member 56a7 at tcp:127.0.0.1:36167 was not heard of for 7 s")
    assert "ovspane cluster kick 56a7" in problem
    assert unheard(STATUS.replace("Role: leader", "Role: follower")) == []
    assert unheard(STATUS.replace("7481", "4999")) == []
    assert unheard(STATUS.replace("timer: 500", "timer: 2000")) == []
    assert unheard("") == []


def test_many_leaders_in_a_short_time_are_unsteady() -> None:
    elections = Elections()
    assert [elections.unsteady(float(at)) for at in range(MANY)] == [False] * (MANY - 1) + [True]
    assert not elections.unsteady(MANY + SPAN)
