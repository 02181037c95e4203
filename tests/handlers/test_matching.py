"""Attribute matching of queries."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.finding.matching import matches, wildcard_matches


@pytest.mark.parametrize(
    ("vr", "key", "values", "expected"),
    [
        ("LO", None, ["x"], True),
        ("LO", "", [], True),
        ("LO", "abc", ["abc"], True),
        ("LO", "abc", ["ABC"], False),
        ("LO", "a*", ["abc"], True),
        ("LO", "a?c", ["abc"], True),
        ("LO", "a?c", ["abbc"], False),
        ("LO", "*", ["anything"], True),
        ("LO", "*", [], False),
        ("PN", "doe^j*", ["Doe^John"], True),
        ("PN", "Doe^John", ["DOE^JOHN^^^"], True),
        ("PN", "山田^太郎", ["Yamada^Tarou=山田^太郎"], True),
        ("PN", "Doe^Jane", ["Doe^John"], False),
        ("DA", "20260101", ["20260101"], True),
        ("DA", "20260101-20260131", ["20260115"], True),
        ("DA", "20260101-20260131", ["20260201"], False),
        ("DA", "-20260131", ["19990101"], True),
        ("DA", "20260101-", ["20270101"], True),
        ("DA", "20260101-", [], False),
        ("TM", "10", ["103000"], True),
        ("TM", "1000-1100", ["103000.5"], True),
        ("TM", "1000-1100", ["110030"], True),
        ("TM", "1000-1100", ["1101"], False),
        ("UI", ["1.2", "1.3"], ["1.3"], True),
        ("UI", ["1.2", "1.3"], ["1.4"], False),
        ("UI", "1.*", ["1.4"], False),
        ("CS", ["CR", "DX"], ["DX", "SR"], True),
        ("IS", "01", ["1"], True),
        ("IS", "x", ["1"], False),
    ],
)
def test_key(vr: str, key: str | list[str] | None, values: list[str], expected: bool) -> None:
    assert matches(vr, key, values) is expected


@given(st.text("ab*?", max_size=8), st.text("ab", max_size=8))
def test_wildcards_mean_what_the_standard_says(key: str, value: str) -> None:
    expression = "".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in key)
    assert wildcard_matches(key, value) is (re.fullmatch(expression, value) is not None)


def test_many_stars_cost_no_more_than_their_length_times_the_values() -> None:
    started = time.process_time()
    assert not wildcard_matches("*a" * 2000 + "b", "a" * 4000)
    assert time.process_time() - started < 20
