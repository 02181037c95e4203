"""Group commit: the instances of many associations go into the index in one transaction.

A commit costs about the same for one row as for thirty. There is no thread of its own: an association whose file is
safe commits for all whose files are safe by then, after a moment for those that are being synced; the others wait for
it, and one of those that came meanwhile commits next. Where a single instance waits and no other process wants the
database, its association writes the rows while the disk works on its bytes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from db.errors import DatabaseError
from db.index import Index
from db.records import NewInstance, StoreVerdict

log = logging.getLogger("overread.group_commit")

GATHER_SECONDS = 0.002
"""So long a group waits for instances that are being synced; most syncs take less."""


class Received(Protocol):
    """A file that is whole and not yet durable."""

    def sync(self) -> None:
        """Make its bytes durable, or raise OSError. May be called again, where a transaction is tried again."""


def _taken() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


@dataclass(kw_only=True, eq=False)
class _Entry:
    instance: NewInstance
    safe: bool = False
    """The file is durable."""
    turn: threading.Lock = field(default_factory=_taken)
    """Released when the instance is committed, or when its association is to commit the next group."""
    verdict: StoreVerdict | None = None
    error: Exception | None = None

    @property
    def over(self) -> bool:
        return self.verdict is not None or self.error is not None


class GroupCommit:
    """Commits instances for all associations of one process."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._waiting: list[_Entry] = []
        """In order of arrival; those whose files are being synced among them."""
        self._committing = False
        self._changed = threading.Condition()
        """Guards both. Notified for whoever gathers a group."""

    def commit(self, instance: NewInstance, file: Received) -> StoreVerdict:
        """Make an instance's file durable, and then its row.

        Raises:
            DatabaseError: nothing was indexed.
            OSError: the file is not durable; nothing was indexed.
        """
        entry = _Entry(instance=instance)
        with self._changed:
            # Nobody waits for the database while this instance's rows and its sync hold it.
            alone = not (self._waiting or self._committing or self._index.database.contended())
            if alone:
                self._committing = True
            else:
                self._waiting.append(entry)
        if alone:
            self._commit([entry], file.sync)
        elif self._must_lead(entry, file):
            self._commit(self._gather())
        if entry.error is not None:
            raise entry.error
        assert entry.verdict is not None
        return entry.verdict

    def _must_lead(self, entry: _Entry, file: Received) -> bool:
        """Sync the file and wait; False when another association has committed the instance."""
        try:
            file.sync()
        except BaseException:
            with self._changed:
                self._waiting.remove(entry)
                self._changed.notify()
            raise
        with self._changed:
            entry.safe = True
            if not self._committing:
                self._committing = True
                return True
            self._changed.notify()
        entry.turn.acquire()
        return not entry.over

    def _gather(self) -> list[_Entry]:
        """All that is safe, after a moment for what is being synced."""
        until = time.monotonic() + GATHER_SECONDS
        with self._changed:
            while not all(entry.safe for entry in self._waiting):
                left = until - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            group = [entry for entry in self._waiting if entry.safe]
            self._waiting = [entry for entry in self._waiting if not entry.safe]
        return group

    def _commit(self, group: Sequence[_Entry], before_commit: Callable[[], None] = lambda: None) -> None:
        try:
            verdicts = self._index.record([entry.instance for entry in group], before_commit)
            for entry, verdict in zip(group, verdicts, strict=True):
                entry.verdict = verdict
        except OSError as error:
            self._fail(group, error)
        except DatabaseError as error:
            log.error("not_committed instances=%d error=%s", len(group), error)
            self._fail(group, error)
        except Exception as error:
            # A fault of ours must not end the association that others wait for; values stay out of the log.
            log.error("commit_failed instances=%d error=%s", len(group), type(error).__name__)
            self._fail(group, DatabaseError("The index failed in an unforeseen way: see the log."))
        finally:
            self._hand_over(group)

    @staticmethod
    def _fail(group: Sequence[_Entry], error: Exception) -> None:
        for entry in group:
            entry.error = error

    def _hand_over(self, group: Sequence[_Entry]) -> None:
        """Wake those that are committed, and first the one that commits what has become safe meanwhile."""
        with self._changed:
            successor = next((entry for entry in self._waiting if entry.safe), None)
            self._committing = successor is not None
        if successor is not None:
            successor.turn.release()
        for entry in group:
            entry.turn.release()
