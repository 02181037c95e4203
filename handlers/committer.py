"""Group commit: the instances of many associations go into the index in one transaction.

A commit costs about the same for one row as for thirty. The thread takes whatever is safe on the disk by now, gives
those that are being synced a moment to join, commits once, and wakes the associations that wait for it. Where a single
instance waits and no other process wants the database, its association commits it without the thread, and writes its
rows while the disk works on its bytes.
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

log = logging.getLogger("overread.committer")

MAXIMUM_GROUP = 128
GATHER_SECONDS = 0.002
"""So long a group waits for instances that are being synced; most syncs take less."""


class Received(Protocol):
    """A file that is whole and not yet durable."""

    def sync(self) -> None:
        """Make its bytes durable, or raise OSError. May be called again, where a transaction is tried again."""


@dataclass(kw_only=True, eq=False)
class _Entry:
    instance: NewInstance
    tried: bool = False
    """The file is safe, or cannot be made safe."""
    safe: bool = False
    done: threading.Event = field(default_factory=threading.Event)
    verdict: StoreVerdict | None = None
    error: Exception | None = None


class Committer:
    """Commits instances for all associations of one process."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._waiting: list[_Entry] = []
        self._committing = False
        self._closed = False
        self._changed = threading.Condition()
        """Guards all of these."""
        self._thread = threading.Thread(target=self._run, name="committer", daemon=True)
        self._thread.start()

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
        else:
            self._join_group(entry, file)
        if entry.error is not None:
            raise entry.error
        assert entry.verdict is not None
        return entry.verdict

    def close(self) -> None:
        """Stop when everything that waits is committed."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _join_group(self, entry: _Entry, file: Received) -> None:
        try:
            file.sync()
            entry.safe = True
        finally:
            entry.tried = True
            with self._changed:
                self._changed.notify()
            entry.done.wait()

    def _run(self) -> None:
        while group := self._next():
            self._commit([entry for entry in group if entry.safe])
            for entry in group:
                entry.done.set()

    def _next(self) -> list[_Entry]:
        """Wait for what can be committed now; nothing when there will be no more."""
        gathering_until: float | None = None
        with self._changed:
            while True:
                group = [entry for entry in self._waiting if entry.tried][:MAXIMUM_GROUP]
                left: float | None = None
                if group and len(group) < len(self._waiting):
                    gathering_until = gathering_until or time.monotonic() + GATHER_SECONDS
                    left = gathering_until - time.monotonic()
                if group and not self._committing and (left is None or left <= 0):
                    self._waiting = [entry for entry in self._waiting if entry not in group]
                    self._committing = True
                    return group
                if self._closed and not self._waiting:
                    return []
                self._changed.wait(None if self._committing else left)

    def _commit(self, group: Sequence[_Entry], before_commit: Callable[[], None] = lambda: None) -> None:
        try:
            if group:
                verdicts = self._index.record([entry.instance for entry in group], before_commit)
                for entry, verdict in zip(group, verdicts, strict=True):
                    entry.verdict = verdict
        except OSError as error:
            for entry in group:
                entry.error = error
        except DatabaseError as error:
            log.error("not_committed instances=%d error=%s", len(group), error)
            for entry in group:
                entry.error = error
        except Exception as error:
            # A fault of ours must not end the thread that all associations wait for; values stay out of the log.
            log.error("commit_failed instances=%d error=%s", len(group), type(error).__name__)
            for entry in group:
                entry.error = DatabaseError("The index failed in an unforeseen way: see the log.")
        finally:
            with self._changed:
                self._committing = False
                self._changed.notify()
