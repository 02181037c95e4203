"""The places of a receiver: how many connections and associations there may be, and which gives its place up.

Silent connections give way to peers that associate, and associations that idle to those that come.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping

from handlers.acceptor.access import source_of
from handlers.settings import ReceiverSettings
from handlers.upper_layer.association import Association
from handlers.upper_layer.rejections import LOCAL_LIMIT, Rejection

log = logging.getLogger("overread.server")

CONNECTIONS_PER_ASSOCIATION = 3
"""Connections that have not associated yet may be this many times the associations."""
GRACE_SECONDS = 5.0
"""An association that has asked for nothing for so long gives its place up where there is no other one."""


class Places:
    """Connections with their threads, and what is known of each. Thread-safe."""

    def __init__(self, settings: ReceiverSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._threads: dict[threading.Thread, Association] = {}
        self._established: dict[str, str] = {}
        """Name of the source, empty for an unknown one, by the association's identifier."""
        self._idle: dict[str, float] = {}
        """Since when an association is between two messages."""
        self._given_up: set[str] = set()

    def make_room(self) -> bool:
        """Whether there is room for one more connection.

        Where there are too many, the one that has taken longest to associate is given up: a peer in good order
        associates at once, so those that keep silent cannot lock it out.
        """
        most = self._settings.maximum_associations * CONNECTIONS_PER_ASSOCIATION
        with self._lock:
            count = len(self._threads)
            if count < most:
                return True
            slow = (a for a in self._threads.values() if a.identifier not in self._established)
            slowest = next((a for a in slow if a.identifier not in self._given_up), None)
            # Those given up may need a moment to end.
            if slowest is None or count >= 2 * most:
                return False
            self._given_up.add(slowest.identifier)
        log.warning("connection_given_up peer=%s reason=%s", slowest.peer.address, "too many connections")
        slowest.connection.interrupt()
        return True

    def enter(self, thread: threading.Thread, association: Association) -> None:
        """A connection is there, with the thread that serves it."""
        with self._lock:
            self._threads[thread] = association

    def leave(self, thread: threading.Thread) -> None:
        """A connection is over."""
        with self._lock:
            identifier = self._threads.pop(thread).identifier
            self._established.pop(identifier, None)
            self._idle.pop(identifier, None)
            self._given_up.discard(identifier)

    def take(self, association: Association) -> Rejection | None:
        """Take one of the places for associations; a rejection where there is none left."""
        source = source_of(self._settings, association.peer.calling_ae, association.peer.address)
        with self._lock:
            if source is not None and source.maximum_associations is not None:
                held = sum(name == source.name for name in self._established.values())
                if held >= source.maximum_associations:
                    return LOCAL_LIMIT
            full = len(self._established) >= self._settings.maximum_associations
            if full and not self._give_up_idle():
                return LOCAL_LIMIT
            self._established[association.identifier] = "" if source is None else source.name
        return None

    def idle(self, association: Association) -> None:
        """An association waits for its next message."""
        with self._lock:
            self._idle[association.identifier] = time.monotonic()

    def busy(self, association: Association) -> None:
        """An association is in the middle of a message."""
        with self._lock:
            self._idle.pop(association.identifier, None)

    def quiet(self) -> Mapping[threading.Thread, tuple[Association, float]]:
        """Every connection, and for how many seconds nothing has been asked for by it."""
        now = time.monotonic()
        with self._lock:
            return {thread: (a, now - self._quiet_since(a, now)) for thread, a in self._threads.items()}

    def _quiet_since(self, association: Association, now: float) -> float:
        """Since when nothing has been asked for; ``now`` in the middle of a message. Under the lock."""
        if association.identifier not in self._established:
            return association.opened_at
        return self._idle.get(association.identifier, now)

    def _give_up_idle(self) -> bool:
        """End the association that has been idle for longest; False where none has been for long. Under the lock."""
        held = {a.identifier: a for a in self._threads.values() if a.identifier in self._established}
        since, identifier = min(((at, i) for i, at in self._idle.items() if i in held), default=(0.0, ""))
        if not identifier or time.monotonic() - since < GRACE_SECONDS:
            return False
        log.warning("association_given_up id=%s reason=%s", identifier, "idle while others wait")
        del self._established[identifier]
        self._given_up.add(identifier)
        held[identifier].abort()
        held[identifier].connection.interrupt()
        return True
