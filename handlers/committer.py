"""Group commit: the instances of many associations go into the index in one transaction.

A commit costs about the same for one row as for thirty. The thread takes whatever is safe on the disk by now, gives
those that are being synced a moment to join, commits once, and wakes the associations that wait for it. Where a single
instance waits and no other process wants the database, its rows are written while its bytes are synced, and only the
commit waits for that.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
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
        """Make its bytes durable, or raise OSError."""


@dataclass(kw_only=True, eq=False)
class _Entry:
    instance: NewInstance
    tried: threading.Event = field(default_factory=threading.Event)
    """Set when the file is safe, or cannot be made safe."""
    safe: bool = False
    done: threading.Event = field(default_factory=threading.Event)
    verdict: StoreVerdict | None = None
    error: Exception | None = None


class _NotSafe(Exception):
    """The file of the only instance could not be made safe; its association knows why."""


class Committer:
    """Commits instances for all associations of one process."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._waiting: list[_Entry] = []
        self._changed = threading.Condition()
        """Guards what waits and whether there will be more."""
        self._closed = False
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
            self._waiting.append(entry)
            if self._alone():
                self._changed.notify()
        try:
            file.sync()
            entry.safe = True
        finally:
            entry.tried.set()
            with self._changed:
                self._changed.notify()
            entry.done.wait()
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

    def _run(self) -> None:
        while group := self._next():
            self._commit(group)

    def _next(self) -> list[_Entry]:
        """Wait for what can be committed now; nothing when there will be no more."""
        gathering_until: float | None = None
        with self._changed:
            while True:
                group = [entry for entry in self._waiting if entry.tried.is_set()][:MAXIMUM_GROUP]
                left: float | None = None
                if group and len(group) < len(self._waiting):
                    gathering_until = gathering_until or time.monotonic() + GATHER_SECONDS
                    left = gathering_until - time.monotonic()
                if not group and self._alone():
                    group = [*self._waiting]
                if (group and (left is None or left <= 0)) or (self._closed and not self._waiting):
                    self._waiting = [entry for entry in self._waiting if entry not in group]
                    return group
                self._changed.wait(left)

    def _alone(self) -> bool:
        """Whether a commit may begin before its instance is safe: nobody waits for the database meanwhile."""
        return len(self._waiting) == 1 and not self._index.database.contended()

    def _commit(self, group: Sequence[_Entry]) -> None:
        ready = [entry for entry in group if not entry.tried.is_set() or entry.safe]
        try:
            if ready:
                self._record(ready)
        except _NotSafe:
            pass
        except OSError as error:
            for entry in ready:
                entry.error = error
        except DatabaseError as error:
            log.error("not_committed instances=%d error=%s", len(ready), error)
            for entry in ready:
                entry.error = error
        except Exception as error:
            # A fault of ours must not end the thread that all associations wait for; values stay out of the log.
            log.error("commit_failed instances=%d error=%s", len(ready), type(error).__name__)
            for entry in ready:
                entry.error = DatabaseError("The index failed in an unforeseen way: see the log.")
        finally:
            for entry in group:
                entry.done.set()

    def _record(self, ready: Sequence[_Entry]) -> None:
        def wait_until_safe() -> None:
            for entry in ready:
                entry.tried.wait()
                if not entry.safe:
                    raise _NotSafe

        verdicts = self._index.record([entry.instance for entry in ready], wait_until_safe)
        for entry, verdict in zip(ready, verdicts, strict=True):
            entry.verdict = verdict
