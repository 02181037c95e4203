"""A switch for tests: named steps of the product at which a process is struck by a signal or an error, once.

``sitecustomize.py`` beside this file puts the switches into every process of a node that has this folder on
its PYTHONPATH. They do nothing until a test arms a step, and the first process to reach that step takes the
arming away with it, so that the process that comes after it runs on.
"""

from __future__ import annotations

import functools
import importlib
import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.peers.waiting import wait_until

FOLDER_VARIABLE = "OVERREAD_FAULTS"
TEMPLATE = "node.line.template"
"""The program that stage processes are forked from."""
ARMED = ".armed"
STRUCK = ".struck"


@dataclass(frozen=True, kw_only=True)
class Step:
    """Before or after the n-th call, from the arming on, of a function in a process of one role."""

    role: str
    module: str
    function: str
    after: bool
    call: int = 1


STEPS = {
    # The receiver, in the order of one C-STORE.
    "head of a PDU read": Step(
        # The A-ASSOCIATE-RQ is the first PDU of an association, the command the second one.
        role="receiver",
        module="handlers.upper_layer.association",
        function="Association._read_header",
        after=True,
        call=3,
    ),
    "fragments written": Step(
        role="receiver", module="handlers.spool.files", function="SpoolFile.append", after=True, call=3
    ),
    "file complete": Step(
        role="receiver", module="handlers.spool.files", function="SpoolFile.complete", after=True
    ),
    "file synced": Step(
        role="receiver", module="handlers.spool.files", function="SpoolFile.sync", after=True
    ),
    "instance committed": Step(role="receiver", module="db.index", function="Index.record", after=True),
    "response due": Step(role="receiver", module="handlers.spool.intake", function="Intake.take", after=True),
    # The ticker.
    "study complete": Step(role="ticker", module="db.plans", function="Plans.complete_study", after=False),
    "jobs inserted": Step(role="ticker", module="db.plans", function="_insert_job", after=True),
    "jobs committed": Step(role="ticker", module="db.plans", function="Plans.complete_study", after=True),
    # The worker's stage processes.
    "preparing": Step(role="stage", module="node.line.tasks", function="Prepare.__call__", after=False),
    "prepared": Step(role="stage", module="node.line.tasks", function="Prepare.__call__", after=True),
    "concluding": Step(role="stage", module="node.line.tasks", function="Conclude.__call__", after=False),
    "result file unsynced": Step(role="stage", module="node.steps.artifacts", function="store", after=True),
    "outcome due": Step(role="stage", module="node.line.tasks", function="Conclude.__call__", after=True),
    # The worker itself.
    "inferring": Step(
        role="worker", module="inference.engines.image", function="ImageEngine._predict", after=True
    ),
    "result file unnamed": Step(role="worker", module="pathlib", function="Path.rename", after=False),
    "all results stored": Step(role="worker", module="db.queue", function="Queue.settle_all", after=False),
    "outbox rows inserted": Step(role="worker", module="db.results", function="insert_results", after=True),
    "outbox committed": Step(role="worker", module="db.queue", function="Queue.settle_all", after=True),
    # The courier.
    "result sent": Step(role="courier", module="db.outbox", function="Outbox.settle", after=False),
    "delivery settled": Step(role="courier", module="db.outbox", function="Outbox.settle", after=True),
}


class Faults:
    """The test's end: arms steps for the processes that were started with ``environment``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def environment(self) -> dict[str, str]:
        return {FOLDER_VARIABLE: str(self.folder)}

    @property
    def python_path(self) -> Path:
        return Path(__file__).resolve().parent

    def arm(self, step: str, strike: signal.Signals | OSError = signal.SIGKILL) -> None:
        """Let the next process that reaches the step be struck.

        SIGKILL ends it there, SIGSTOP holds it there, and an OSError is raised there.
        """
        (self.folder / (step + STRUCK)).unlink(missing_ok=True)
        draft = self.folder / step
        draft.write_text(f"error {strike.errno}" if isinstance(strike, OSError) else f"signal {int(strike)}")
        draft.rename(self.folder / (step + ARMED))

    def wait_until_struck(self, step: str, seconds: float) -> None:
        """Wait until a process has been struck at the step; fails the test when time is up."""
        wait_until(lambda: (self.folder / (step + STRUCK)).exists(), seconds, f"struck at {step}")


class _Switch:
    """The process' end of one step."""

    def __init__(self, folder: Path, name: str, call: int) -> None:
        self._armed = folder / (name + ARMED)
        self._struck = folder / (name + STRUCK)
        self._call = call
        self._seen = 0
        self._lock = threading.Lock()

    def reached(self) -> None:
        with self._lock:
            if not self._armed.exists():
                self._seen = 0
                return
            self._seen += 1
            if self._seen < self._call:
                return
            try:
                kind, number = self._armed.read_text().split()
                os.rename(self._armed, self._struck)  # Path.rename has a switch of its own
            except FileNotFoundError:
                return  # another process was first
            if kind == "error":
                raise OSError(int(number), os.strerror(int(number)))
            os.kill(os.getpid(), int(number))
            threading.Event().wait()  # a stop takes a moment to reach this thread


def role_of(command: Sequence[str]) -> str | None:
    """The role whose steps belong into a process that was started so; None for one without steps.

    The template of a worker's stage processes gets theirs, since they have its memory.
    """
    if "--role" in command:
        return command[command.index("--role") + 1]
    return "stage" if TEMPLATE in command else None


def install(folder: Path, role: str) -> None:
    """Put the switches of a role's steps around their functions in this process."""
    for name, step in STEPS.items():
        if step.role == role:
            owner, attribute = find(step)
            switch = _Switch(folder, name, step.call)
            setattr(owner, attribute, _switched(getattr(owner, attribute), switch, after=step.after))


def find(step: Step) -> tuple[Any, str]:
    """Where a step's function is: a module or class, and the name in it."""
    owner: Any = importlib.import_module(step.module)
    *classes, attribute = step.function.split(".")
    for name in classes:
        owner = getattr(owner, name)
    return owner, attribute


def _switched(function: Any, switch: _Switch, *, after: bool) -> Any:
    @functools.wraps(function)
    def switched(*arguments: Any, **keywords: Any) -> Any:
        if not after:
            switch.reached()
        result = function(*arguments, **keywords)
        if after:
            switch.reached()
        return result

    return switched
