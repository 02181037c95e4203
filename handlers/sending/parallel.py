"""Sending to one destination over several associations, each in a thread of its own.

The files wait in one line, and an association takes the next one when it has its answer to the last. So an object is
bound to no association that a peer may not grant: where the second one is rejected, or waits until the first has
ended, the first takes all, and nothing counts as failed. Idle associations stay open for a moment, because the next
report need not wait for a new one then.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from db.retry import ASSOCIATION
from handlers.sending.association import AssociationFailed, NothingAccepted, Timeouts
from handlers.sending.requestor import RELEASE_SECONDS, RequestedAssociation, open_storage_association
from handlers.sending.sender import (
    LOST,
    MAXIMUM_KINDS,
    MAXIMUM_LOST_IN_A_ROW,
    FileToSend,
    Kind,
    SendResult,
    contexts_for,
    kinds_of,
    send_file,
    undelivered,
)
from handlers.settings import Destination

log = logging.getLogger("overread.sender")

IDLE_SECONDS = 2.0
"""How long an association stays open without work. Short, because some peers serve one at a time."""
FURTHER_SECONDS = 2.0
"""How long a peer may take to connect and to accept an association beside another one."""
FURTHER_FROM = 2
"""So many files wait for the associations that there are before a further one is opened."""
BROKEN_IDLE_SECONDS = 5.0
"""A loss within this time after an idle association was used again is taken for the end of the idle one."""
FAULT_SECONDS = 1.0
"""How long a thread rests after an unexpected error."""


class ParallelSender:
    """Sends files to one destination. ``put``, ``take_results`` and the rest may be called from any thread.

    Args:
        destination: the peer; its ``associations`` is how many there are at most.
        calling_ae: our AE title.
        finished: called, from another thread, whenever there are new results.
        fault: called with an unexpected error; logs it and returns the reason for the results.
        timeouts: how long to wait for the peer.
    """

    def __init__(
        self,
        destination: Destination,
        calling_ae: str,
        finished: Callable[[], None],
        fault: Callable[[Exception], str],
        timeouts: Timeouts | None = None,
    ) -> None:
        self.destination = destination
        self.calling_ae = calling_ae
        self.timeouts = timeouts or Timeouts()
        self._finished = finished
        self._fault = fault
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._waiting: deque[FileToSend] = deque()
        self._results: list[SendResult] = []
        self._kinds: dict[Kind, None] = {}
        """What was sent so far: an association offers it all, so that it fits what comes later."""
        self._open = 0
        self._idle = 0
        self._opening = False
        self._lost_in_a_row = 0
        self._refusals = 0
        self._further_not_before = 0.0
        self._releasing_idle = False
        self._stopping = False

    @property
    def associations(self) -> int:
        """How many associations are established."""
        return self._open

    def put(self, files: Sequence[FileToSend]) -> None:
        """Add files to those that wait."""
        if not files:
            return
        for file in files:
            _read_ahead(file)
        with self._changed:
            self._waiting.extend(files)
            self._changed.notify_all()
        if not self._threads:
            for number in range(self.destination.associations):
                name = f"sender-{self.destination.name}-{number}"
                self._threads.append(threading.Thread(target=self._serve, name=name, daemon=True))
                self._threads[-1].start()

    def take_results(self) -> list[SendResult]:
        """The results that have come since the last call, one for each file."""
        with self._changed:
            results, self._results = self._results, []
        return results

    def release_idle(self) -> None:
        """Release the associations if none has work, for a peer that serves one at a time."""
        with self._changed:
            self._releasing_idle = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._open or bool(self._waiting), RELEASE_SECONDS)
            self._releasing_idle = False

    def close(self) -> None:
        """Send what is being sent to its end and release the associations; files that still wait get no result."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        """Serve until the end; no fault may end the thread, because perhaps no other one serves the destination."""
        while not self._stopping:
            try:
                self._serve_association()
            except Exception as error:
                self._fault(error)
                with self._changed:
                    self._changed.wait_for(lambda: self._stopping, FAULT_SECONDS)

    def _serve_association(self) -> None:
        """Wait until an association is needed, and use it for as long as there is work."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._may_open(), self._until_further())
            if self._stopping or not self._may_open():
                return
            self._opening = True
            further = self._open > 0
            kinds = self._kinds_to_offer()
        association = self._open_association(kinds, further=further)
        if association is None:
            return
        line = _Line(association, frozenset(kinds))
        try:
            while (file := self._next_file(line)) is not None:
                self._send(line, file)
        finally:
            association.release()
            with self._changed:
                self._open -= 1
                self._changed.notify_all()

    def _until_further(self) -> float | None:
        """Seconds until a further association may be tried again; None if it may now."""
        return max(self._further_not_before - time.monotonic(), 0.0) or None

    def _may_open(self) -> bool:
        if not self._waiting or self._opening:
            return False
        if not self._open:
            return True
        enough = len(self._waiting) - self._idle >= FURTHER_FROM
        return enough and time.monotonic() >= self._further_not_before

    def _kinds_to_offer(self) -> list[Kind]:
        """The kinds that wait, then those that were sent before, as many as one association has contexts for."""
        return list(dict.fromkeys([*kinds_of(self._waiting), *self._kinds]))[:MAXIMUM_KINDS]

    def _open_association(self, kinds: Sequence[Kind], *, further: bool) -> RequestedAssociation | None:
        """Open an association. If the first one fails, so do the files; without a further one they only wait."""
        timeouts = self.timeouts
        if further:
            timeouts = replace(timeouts, connection=FURTHER_SECONDS, acse=FURTHER_SECONDS)
        failure: AssociationFailed
        try:
            association = open_storage_association(
                self.destination, self.calling_ae, timeouts, contexts_for(kinds)
            )
        except AssociationFailed as failed:
            failure = failed
        except Exception as error:
            failure = AssociationFailed(self._fault(error), transient=True)
        else:
            with self._changed:
                self._opening = False
                self._open += 1
                if further:
                    self._refusals = 0
                self._kinds = dict.fromkeys(kinds)
                self._changed.notify_all()
            return association
        with self._changed:
            self._opening = False
            if further:
                log.info("no_further_association destination=%s reason=%s", self.destination.name, failure)
                self._postpone_further()
            elif isinstance(failure, NothingAccepted):
                self._fail_waiting(failure, kinds=kinds)
            else:
                self._fail_waiting(failure)
            self._changed.notify_all()
        return None

    def _postpone_further(self) -> None:
        self._refusals += 1
        self._further_not_before = time.monotonic() + ASSOCIATION.pause(self._refusals)

    def _fail_waiting(self, failure: AssociationFailed, kinds: Iterable[Kind] | None = None) -> None:
        """Give every waiting file, or those of some kinds, the failure as its result."""
        failed = [file for file in self._waiting if kinds is None or file.kind in kinds]
        self._waiting = deque(file for file in self._waiting if file not in failed)
        reached = isinstance(failure, NothingAccepted) or not failure.transient
        self._add_results(
            [undelivered(f, str(failure), transient=failure.transient, reached=reached) for f in failed]
        )

    def _add_results(self, results: Iterable[SendResult]) -> None:
        self._results.extend(results)
        self._finished()

    def _next_file(self, line: _Line) -> FileToSend | None:
        """The next file for an association; None if it is to be released, as when there is nothing for a while."""
        idle_until = time.monotonic() + (IDLE_SECONDS if line.used else 0.0)
        with self._changed:
            line.was_idle = not self._waiting
            self._idle += 1
            while not (self._stopping or self._waiting or self._releasing_idle or not line.usable):
                left = idle_until - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            self._idle -= 1
            fits = bool(self._waiting) and self._waiting[0].kind in line.kinds
            return self._waiting.popleft() if fits and line.usable and not self._stopping else None

    def _send(self, line: _Line, file: FileToSend) -> None:
        started = time.monotonic()
        try:
            result = send_file(line.association, file)
        except Exception as error:
            # A fault of a library on one object: the others are sent all the same.
            line.association.break_off()
            result = undelivered(file, self._fault(error), transient=True, reached=False)
        lost = not result.reached
        with self._changed:
            if lost and line.used and line.was_idle and time.monotonic() - started < BROKEN_IDLE_SECONDS:
                # The peer ended the association when it was idle; the file is no reason to wait.
                self._waiting.appendleft(file)
                return
            line.used = True
            if result.delivered:
                self._lost_in_a_row = 0
            elif lost:
                self._lost_in_a_row += 1
                if self._open > 1:
                    # Perhaps the peer ends one association when there is another.
                    self._postpone_further()
            self._add_results([result])
            if self._lost_in_a_row >= MAXIMUM_LOST_IN_A_ROW:
                self._lost_in_a_row = 0
                self._fail_waiting(AssociationFailed(LOST, transient=True))


def _read_ahead(file: FileToSend) -> None:
    """Have the kernel read a file from the disk while others are sent; it does not wait for the disk."""
    with contextlib.suppress(OSError):  # the sender opens it again, and says what is wrong
        opened = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.posix_fadvise(opened, 0, 0, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(opened)


class _Line:
    """One association with what it is good for."""

    def __init__(self, association: RequestedAssociation, kinds: frozenset[Kind]) -> None:
        self.association = association
        self.kinds = kinds
        self.used = False
        """Whether it has carried a file."""
        self.was_idle = False
        """Whether it had to wait for its next file."""

    @property
    def usable(self) -> bool:
        """Whether the association is still there."""
        return self.association.established and self.association.usable()
