"""Lines of the log: a record is one line of key=value pairs or one JSON object, whatever its values hold.

Our own modules log ``log.info("event_name key=%s other=%d", value, number)``: the template gives the keys, so that each
value is quoted for itself. Records of libraries have the event ``message`` and their text under that key.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal

LogStyle = Literal["text", "json"]
LogValue = str | int | float

OURS = "overread."
"""What the names of our own loggers begin with."""
RESERVED = frozenset({"at", "level", "process", "logger", "event", "message", "exception"})
"""Keys that every line may have, and no template."""
_NAME = "[a-z][a-z0-9_]*"
_CONVERSION = r"%[0-9]*(?:\.[0-9]+)?[sdfX]"
_PAIR = re.compile(rf" ({_NAME})=({_CONVERSION}|[^%=]+?)(?= {_NAME}=|$)")
_TEMPLATE = re.compile(rf"({_NAME})((?:{_PAIR.pattern})*)")
_BARE = re.compile(r'[^\s"=\\]+')


@dataclass(frozen=True, kw_only=True)
class Template:
    """What a call of the log says: the event, and by key a conversion such as ``%s`` or words that stay as they are."""

    event: str
    pairs: tuple[tuple[str, str], ...]

    @property
    def conversions(self) -> int:
        """How many arguments belong to it."""
        return sum(form.startswith("%") for _, form in self.pairs)


@lru_cache(maxsize=1024)
def parse_template(text: str) -> Template | None:
    """A template as its parts, None for a text of another form."""
    match = _TEMPLATE.fullmatch(text)
    if match is None:
        return None
    pairs = tuple((key, form) for key, form in _PAIR.findall(match[2]))
    keys = [key for key, _ in pairs]
    if len({*keys}) < len(keys) or RESERVED.intersection(keys):
        return None
    return Template(event=match[1], pairs=pairs)


def quoted(text: str) -> str:
    """A value as it is, or as a JSON string where it is empty or has more in it than printable characters."""
    if _BARE.fullmatch(text) and text.isprintable():
        return text
    inner = (c if c.isprintable() and c not in '"\\' else json.dumps(c)[1:-1] for c in text)
    return f'"{"".join(inner)}"'


def as_text(fields: Mapping[str, LogValue]) -> str:
    """One line of ``key=value`` pairs."""
    return " ".join(f"{key}={quoted(str(value))}" for key, value in fields.items())


def as_json(fields: Mapping[str, LogValue]) -> str:
    """One line with a JSON object."""
    return json.dumps(fields)


STYLES: Mapping[LogStyle, Callable[[Mapping[str, LogValue]], str]] = {"text": as_text, "json": as_json}


class LogFormatter(logging.Formatter):
    """Makes the lines of one process."""

    def __init__(self, process: str, style: LogStyle) -> None:
        super().__init__()
        self.process = process
        self.write = STYLES[style]

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        fields: dict[str, LogValue] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": self.process,
            "logger": record.name,
            **_said(record),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return self.write(fields)


def _said(record: logging.LogRecord) -> dict[str, LogValue]:
    template = parse_template(str(record.msg)) if record.name.startswith(OURS) else None
    arguments = record.args if isinstance(record.args, tuple) else ()
    if template is None or template.conversions != len(arguments):
        return {"event": "message", "message": record.getMessage()}
    said: dict[str, LogValue] = {"event": template.event}
    left = iter(arguments)
    for key, form in template.pairs:
        said[key] = _value(form, next(left)) if form.startswith("%") else form
    return said


def _value(conversion: str, argument: object) -> LogValue:
    """An argument as its conversion writes it; a number where the conversion writes one."""
    text = conversion % (argument,)
    if conversion[-1] not in "df" or not text.strip("-").replace(".", "", 1).isdecimal():
        return text
    return float(text) if "." in text else int(text)
