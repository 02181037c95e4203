"""Group commit: the instances of many associations go into the index in one transaction.

A sync of the disk costs the same for one row as for thirty. The thread takes whatever is waiting, syncs
each folder once, commits once, and wakes the associations that wait for it.
"""

from __future__ import annotations

import logging
import queue
import threading
from dataclasses import dataclass, field
from pathlib import Path

from db.errors import DatabaseError
from db.index import Index
from db.records import NewInstance, StoreVerdict
from handlers.folders import sync_folder

log = logging.getLogger("overread.committer")

MAXIMUM_GROUP = 128


@dataclass(kw_only=True)
class _Entry:
    instance: NewInstance
    folder: Path
    done: threading.Event = field(default_factory=threading.Event)
    verdict: StoreVerdict | None = None
    error: Exception | None = None


class Committer:
    """Commits instances for all associations of one process."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._waiting: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="committer", daemon=True)
        self._thread.start()

    def commit(self, instance: NewInstance, folder: Path) -> StoreVerdict:
        """Make an instance's folder entry and its row durable.

        Raises:
            DatabaseError: nothing was indexed.
            OSError: the folder could not be synced; nothing was indexed.
        """
        entry = _Entry(instance=instance, folder=folder)
        self._waiting.put(entry)
        entry.done.wait()
        if entry.error is not None:
            raise entry.error
        assert entry.verdict is not None
        return entry.verdict

    def close(self) -> None:
        """Stop when everything that waits is committed."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            first = self._waiting.get()
            if first is None:
                return
            group = [first]
            stopping = False
            while len(group) < MAXIMUM_GROUP and not self._waiting.empty():
                entry = self._waiting.get()
                if entry is None:
                    stopping = True
                    break
                group.append(entry)
            self._commit(group)
            if stopping:
                return

    def _commit(self, group: list[_Entry]) -> None:
        try:
            for folder in {entry.folder for entry in group}:
                sync_folder(folder)
            verdicts = self._index.record([entry.instance for entry in group])
        except (DatabaseError, OSError) as error:
            log.error("not_committed instances=%d error=%s", len(group), error)
            for entry in group:
                entry.error = error
        except Exception as error:
            # A fault of ours must not end the thread that all associations wait for; values stay out of the log.
            log.error("commit_failed instances=%d error=%s", len(group), type(error).__name__)
            for entry in group:
                entry.error = DatabaseError("The index failed in an unforeseen way: see the log.")
        else:
            for entry, verdict in zip(group, verdicts, strict=True):
                entry.verdict = verdict
        finally:
            for entry in group:
                entry.done.set()
