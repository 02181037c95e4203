"""Lines of the log: parsable whatever is logged, and every call of the house has a form that can be parsed."""

from __future__ import annotations

import ast
import json
import logging
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.log import LogFormatter, LogStyle, parse_template, quoted

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("db", "handlers", "inference", "node", "sr_writer")
METHODS = {"debug": 0, "info": 0, "warning": 0, "error": 0, "critical": 0, "exception": 0, "log": 1}
"""Where each has its template among its arguments."""
PAIR = re.compile(r'([a-z][a-z0-9_]*)=("(?:[^"\\]|\\.)*"|[^\s"=\\]+)(?: |$)')


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Each call of a logger in the house, with its place."""
    for room in ROOMS:
        for file in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text())):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute)
                    and isinstance(node.func.value, ast.Name)
                    and node.func.value.id == "log"
                    and node.func.attr in METHODS
                ):
                    yield f"{file.relative_to(ROOT)}:{node.lineno}", node


def test_every_template_of_the_house_can_be_parsed() -> None:
    wrong = []
    for place, call in calls():
        assert isinstance(call.func, ast.Attribute)
        text, *arguments = call.args[METHODS[call.func.attr] :]
        template = None
        if isinstance(text, ast.Constant) and isinstance(text.value, str):
            template = parse_template(text.value)
        if template is None or template.conversions != len(arguments) or call.keywords:
            wrong.append(f"{place}: {ast.unparse(text)}")
    assert not wrong, "write event_name key=%s other=%d, each key once"
    assert len(list(calls())) > 50


def test_every_logger_of_the_house_is_known_as_ours() -> None:
    made = re.compile(r"^log = (.*)$", re.M)
    for room in ROOMS:
        for file in (ROOT / room).rglob("*.py"):
            for name in made.findall(file.read_text()):
                assert re.fullmatch(r'logging\.getLogger\("overread\.[a-z_]+"\)', name), file


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Words of a library",
        "event key = %s",
        "event key=%s and more",
        "event first=%s-%d",
        "event key=%s key=%s",
        "event at=%s",
        "event_%s key=%d",
        "event key=%(name)s",
        "event key=",
    ],
)
def test_other_forms_are_no_template(text: str) -> None:
    assert parse_template(text) is None


def line(style: LogStyle, name: str, text: object, *arguments: object, error: bool = False) -> str:
    record = logging.LogRecord(
        name, logging.WARNING, "file.py", 1, text, arguments, sys.exc_info() if error else None
    )
    return LogFormatter("worker-0", style).format(record)


def read(text: str) -> dict[str, str]:
    """A line as somebody's parser reads it."""
    pairs = {}
    position = 0
    while position < len(text):
        match = PAIR.match(text, position)
        assert match is not None, text[position:]
        pairs[match[1]] = json.loads(match[2]) if match[2].startswith('"') else match[2]
        position = match.end()
    return pairs


def test_line_says_when_who_and_what() -> None:
    written = line("text", "overread.worker", "job_settled job=%d outcome=%s", 7, "Done")
    assert re.fullmatch(
        r"at=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00 level=warning process=worker-0 "
        r"logger=overread\.worker event=job_settled job=7 outcome=Done",
        written,
    )
    assert abs(datetime.fromisoformat(read(written)["at"]) - datetime.now(UTC)).total_seconds() < 60


def test_words_of_a_template_are_a_value() -> None:
    written = read(line("text", "overread.x", "jobs_wait engine=%s reason=not configured count=%d", "a b", 3))
    assert (written["engine"], written["reason"], written["count"]) == ("a b", "not configured", "3")


def test_json_has_numbers_where_the_template_has() -> None:
    text = "event count=%d seconds=%.1f waiting=%.0f status=%04X name=%s"
    written = json.loads(line("json", "overread.x", text, 3, 1.25, 60.2, 0xA700, 5))
    assert list(written)[:5] == ["at", "level", "process", "logger", "event"]
    assert {key: written[key] for key in ("count", "seconds", "waiting", "status", "name")} == {
        "count": 3,
        "seconds": 1.2,
        "waiting": 60,
        "status": "A700",
        "name": "5",
    }


@given(value=st.text())
@pytest.mark.parametrize("style", ["text", "json"])
def test_any_value_comes_back_from_its_one_line(style: LogStyle, value: str) -> None:
    written = line(style, "overread.x", "event key=%s other=%s", value, "end")
    assert len(written.splitlines()) == 1
    assert (json.loads(written) if style == "json" else read(written))["key"] == value


def test_plain_values_stay_plain() -> None:
    assert [quoted(text) for text in ("A700", "cuda:0", "/a/b", "Jörg")] == ["A700", "cuda:0", "/a/b", "Jörg"]
    assert [quoted(text) for text in ("", "a b", "a=b", 'a"b', "a\nb", "\x1b[0m")] == [
        '""',
        '"a b"',
        '"a=b"',
        '"a\\"b"',
        '"a\\nb"',
        '"\\u001b[0m"',
    ]


@pytest.mark.parametrize(
    ("name", "text", "arguments", "message"),
    [
        ("uvicorn.error", "Bound to %s:%d", ("host", 80), "Bound to host:80"),
        ("library", "started", (), "started"),
        ("library", ValueError("an object\nof theirs"), (), "an object\nof theirs"),
        ("overread.x", "not of our form: %s", ("x",), "not of our form: x"),
        ("library", "%(a)s", ({"a": 1},), "1"),
    ],
)
def test_lines_of_libraries_are_messages(
    name: str, text: object, arguments: tuple[object, ...], message: str
) -> None:
    written = read(line("text", name, text, *arguments))
    assert (written["event"], written["message"]) == ("message", message)


@pytest.mark.parametrize("style", ["text", "json"])
def test_exception_is_one_field(style: LogStyle) -> None:
    try:
        int("x")
    except ValueError:
        written = line(style, "library", "it failed", error=True)
    assert len(written.splitlines()) == 1
    said = json.loads(written) if style == "json" else read(written)
    assert said["exception"].endswith("ValueError: invalid literal for int() with base 10: 'x'")
