"""The main function of a stage process, and what the process that all of them are forked from loads.

A fork of a process that has the libraries starts in milliseconds and shares their memory.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
from dataclasses import dataclass
from typing import Any

from inference.engine import Engine
from inference.reading.limits import ReaderLimits
from inference.reading.pool import close_readers, limit_readers, readers
from node.errors import raised_at
from node.line import transport
from node.line.tasks import Task
from node.processes.log_format import LogStyle
from node.processes.process import configure_log

log = logging.getLogger("overread.line")

PR_SET_PDEATHSIG = 1
"""prctl(2): sets the signal that a process gets when its parent dies."""

# A signal to stop goes to the whole process group, but the worker needs its stages to finish what is on the line.
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """What a stage process needs to know when it starts."""

    name: str
    """In its log lines."""
    log_style: LogStyle
    reader_limits: ReaderLimits


@dataclass(frozen=True, kw_only=True)
class Request:
    """A task, with the engine's copy if this process does not have it yet. None: have a reader ready."""

    engine: str
    copy: Engine | None
    task: Task | None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A task's result, or where and with what error the task failed."""

    value: Any = None
    error: str | None = None


def serve(channel: socket.socket, settings: StageSettings) -> None:
    """Do one task after another until the worker closes the channel."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    configure_log(settings.name, settings.log_style)
    limit_readers(settings.reader_limits)
    engines: dict[str, Engine] = {}
    transport.send(channel, os.getpid())
    while True:
        try:
            request: Request = transport.receive(channel)
        except transport.ChannelClosed:
            break
        transport.send(channel, _answer(request, engines))
    close_readers()


def _answer(request: Request, engines: dict[str, Engine]) -> Answer:
    if request.copy is not None:
        engines[request.engine] = request.copy
    if request.task is None:
        readers().warm()
        return Answer()
    try:
        return Answer(value=request.task(engines.get(request.engine)))
    except Exception as error:
        # A task turns the faults of engines into failures itself. This one is ours, and the worker reports it.
        return Answer(error=f"{type(error).__name__} at {raised_at(error)}")
