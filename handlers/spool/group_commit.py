"""Group commit: the instances of many associations are indexed in one transaction.

A commit of thirty rows costs about as much as one of a single row. No extra thread is needed: an association that has
synced its file waits a moment for files that are being synced, and commits for all whose files are synced by then. The
others wait; afterwards one of those that have come in the meantime commits the next group. An instance that is alone,
while no other process is waiting for the database, is inserted while the disk syncs its file.
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
"""How long a group waits for files that are being synced; most syncs take less."""


class SyncableFile(Protocol):
    """A complete file that is not durable yet."""

    def sync(self) -> None:
        """Make the bytes durable; called again when a transaction is retried.

        Raises:
            OSError: they could not be made durable.
        """


def _acquired_lock() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


@dataclass(kw_only=True, eq=False)
class _PendingInstance:
    instance: NewInstance
    synced: bool = False
    """Whether the file is durable."""
    turn: threading.Lock = field(default_factory=_acquired_lock)
    """Released when the instance has been committed, or when its association must commit the next group."""
    verdict: StoreVerdict | None = None
    error: Exception | None = None

    @property
    def finished(self) -> bool:
        return self.verdict is not None or self.error is not None


class GroupCommit:
    """Commits instances for all associations of one process."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._waiting: list[_PendingInstance] = []
        """In order of arrival, including instances whose files are still being synced."""
        self._committing = False
        self._changed = threading.Condition()
        """Guards the two fields above; notified when a waiting instance is synced or has failed."""

    def commit(self, instance: NewInstance, file: SyncableFile) -> StoreVerdict:
        """Make an instance's file durable, and index the instance.

        Raises:
            DatabaseError: nothing was indexed.
            OSError: the file is not durable; nothing was indexed.
        """
        entry = _PendingInstance(instance=instance)
        with self._changed:
            # If it is alone, nobody waits while its transaction stays open during the sync.
            alone = not (self._waiting or self._committing or self._index.database.contended())
            if alone:
                self._committing = True
            else:
                self._waiting.append(entry)
        if alone:
            self._commit([entry], file.sync)
        elif self._sync_and_wait(entry, file):
            self._commit(self._gather_group())
        if entry.error is not None:
            raise entry.error
        assert entry.verdict is not None
        return entry.verdict

    def _sync_and_wait(self, entry: _PendingInstance, file: SyncableFile) -> bool:
        """Sync the file and wait; True if this association must commit, False if another has committed the instance."""
        try:
            file.sync()
        except BaseException:
            with self._changed:
                self._waiting.remove(entry)
                self._changed.notify()
            raise
        with self._changed:
            entry.synced = True
            if not self._committing:
                self._committing = True
                return True
            self._changed.notify()
        entry.turn.acquire()
        return not entry.finished

    def _gather_group(self) -> list[_PendingInstance]:
        """The synced instances, after waiting up to ``GATHER_SECONDS`` for files that are being synced."""
        until = time.monotonic() + GATHER_SECONDS
        with self._changed:
            while not all(entry.synced for entry in self._waiting):
                left = until - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            group = [entry for entry in self._waiting if entry.synced]
            self._waiting = [entry for entry in self._waiting if not entry.synced]
        return group

    def _commit(
        self, group: Sequence[_PendingInstance], before_commit: Callable[[], None] = lambda: None
    ) -> None:
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
            # An unexpected error must reach all who wait; values stay out of the log.
            log.error("commit_failed instances=%d error=%s", len(group), type(error).__name__)
            self._fail(group, DatabaseError("The index failed unexpectedly: see the log."))
        finally:
            self._hand_over(group)

    @staticmethod
    def _fail(group: Sequence[_PendingInstance], error: Exception) -> None:
        for entry in group:
            entry.error = error

    def _hand_over(self, group: Sequence[_PendingInstance]) -> None:
        """Wake the association that must commit the next group, if any, then those of this group."""
        with self._changed:
            successor = next((entry for entry in self._waiting if entry.synced), None)
            self._committing = successor is not None
        if successor is not None:
            successor.turn.release()
        for entry in group:
            entry.turn.release()
