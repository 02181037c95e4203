"""The log: how it is set up, and its format. A record is a line of key=value pairs or one JSON object.

Our own modules call ``log.info("event_name key=%s other=%d", value, number)``. The keys come from the template, so each
value can be quoted by itself. A record of a library has the event ``message`` and its text under the key ``message``.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal

LogStyle = Literal["text", "json"]
LogValue = str | int | float

OWN_PREFIX = "overread."
"""The prefix of our own loggers' names."""
QUOTING = frozenset(
    {"pynetdicom", "pydicom", "apscheduler", "alembic", "httpx", "PIL", "highdicom", "matplotlib"}
)
"""Libraries whose records below an error might quote values, or say nothing to an administrator."""
RESERVED = frozenset({"at", "level", "process", "logger", "event", "message", "exception"})
"""Keys that a template must not use, because the line has them anyway."""
_NAME = "[a-z][a-z0-9_]*"
_CONVERSION = r"%[0-9]*(?:\.[0-9]+)?[sdfX]"
_PAIR = re.compile(rf" ({_NAME})=({_CONVERSION}|[^%=]+?)(?= {_NAME}=|$)")
_TEMPLATE = re.compile(rf"({_NAME})((?:{_PAIR.pattern})*)")
_BARE = re.compile(r'[^\s"=\\]+')


@dataclass(frozen=True, kw_only=True)
class Template:
    """A parsed log template: the event, and pairs of a key and either a conversion such as ``%s`` or fixed text."""

    event: str
    pairs: tuple[tuple[str, str], ...]

    @property
    def conversions(self) -> int:
        """How many arguments the template takes."""
        return sum(spec.startswith("%") for _, spec in self.pairs)


@lru_cache(maxsize=1024)
def parse_template(text: str) -> Template | None:
    """Parse a template; None where the text has another form."""
    match = _TEMPLATE.fullmatch(text)
    if match is None:
        return None
    pairs = tuple((key, spec) for key, spec in _PAIR.findall(match[2]))
    keys = [key for key, _ in pairs]
    if len({*keys}) < len(keys) or RESERVED.intersection(keys):
        return None
    return Template(event=match[1], pairs=pairs)


def quoted(text: str) -> str:
    """The text, as a JSON string if it is empty or has spaces, quotes, ``=``, backslashes or unprintable characters."""
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
    """Formats the records of one process."""

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
            **_event_fields(record),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return self.write(fields)


def _event_fields(record: logging.LogRecord) -> dict[str, LogValue]:
    """The event of a record and its values by key."""
    template = parse_template(str(record.msg)) if record.name.startswith(OWN_PREFIX) else None
    arguments = record.args if isinstance(record.args, tuple) else ()
    if template is None or template.conversions != len(arguments):
        return {"event": "message", "message": record.getMessage()}
    fields: dict[str, LogValue] = {"event": template.event}
    remaining = iter(arguments)
    for key, spec in template.pairs:
        fields[key] = _value(spec, next(remaining)) if spec.startswith("%") else spec
    return fields


def _value(conversion: str, argument: object) -> LogValue:
    """An argument as its conversion writes it, as a number if the conversion writes one."""
    text = conversion % (argument,)
    if conversion[-1] not in "df" or not text.strip("-").replace(".", "", 1).isdecimal():
        return text
    return float(text) if "." in text else int(text)


def configure_log(process: str, style: LogStyle = "text") -> None:
    """Log to standard error, one record a line. Libraries that might log values of datasets log only errors.

    Args:
        process: the name in each line: the role, with its number if there are several.
        style: key=value pairs or JSON.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormatter(process, style))
    # Not by their levels, which some libraries set again when they are loaded.
    handler.addFilter(lambda r: r.levelno >= logging.ERROR or r.name.partition(".")[0] not in QUOTING)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # Python prints warnings to standard error too, and pydicom's quote values of datasets.
    warnings.simplefilter("ignore")
