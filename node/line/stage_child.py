"""The main function of a stage process."""

from __future__ import annotations

import ctypes
import logging
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from inference.engine import Engine
from inference.reading.limits import ReaderLimits
from inference.reading.pool import close_readers, limit_readers, readers
from node.errors import raised_at
from node.line import transport
from node.line.tasks import Task

log = logging.getLogger("overread.line")

PR_SET_PDEATHSIG = 1
"""prctl(2): sets the signal that a process gets when its parent dies."""


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """What stage processes need to know when they start."""

    modules: tuple[str, ...]
    """Loaded before any of them is forked."""
    begin: Callable[[], object]
    """Called first in each, for example to set up its log; it can be pickled."""
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


def serve(channel: socket.socket) -> None:
    """Do one task after another until the worker closes the channel. Its first message is ``StageSettings``."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    engines: dict[str, Engine] = {}
    try:
        settings: StageSettings = transport.receive(channel)
        settings.begin()
        limit_readers(settings.reader_limits)
        while True:
            answer = _answer(transport.receive(channel), engines)
            try:
                transport.send(channel, answer)
            except OSError:
                raise
            except Exception as error:  # what a task gave cannot be pickled
                failed = Answer(error=f"{type(error).__name__} at {raised_at(error)}")
                transport.send(channel, failed)
    except (transport.ChannelClosed, BrokenPipeError):
        pass  # the worker has ended, or needs this process no longer
    finally:
        close_readers()


def _answer(request: Request, engines: dict[str, Engine]) -> Answer:
    if request.copy is not None:
        engines[request.engine] = request.copy
    try:
        if request.task is None:
            readers().warm()
            return Answer()
        return Answer(value=request.task(engines.get(request.engine)))
    except Exception as error:
        # A task turns the faults of engines into failures itself. This one is ours, and the worker reports it.
        log.error("stage_failed error=%s place=%s", type(error).__name__, raised_at(error))
        return Answer(error=f"{type(error).__name__} at {raised_at(error)}")
