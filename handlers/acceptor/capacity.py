"""How many connections and associations a receiver holds, and which it ends to make room.

A connection that has not associated is ended for a new connection, an idle association for a new association.
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
"""Most connections, as a multiple of the most associations."""
GRACE_SECONDS = 5.0
"""When all slots are taken, an association that has been idle for this long is ended for a new one."""


class Capacity:
    """The connections of one receiver process, each with its thread and its association. Thread-safe."""

    def __init__(self, settings: ReceiverSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._threads: dict[threading.Thread, Association] = {}
        self._established: dict[str, str] = {}
        """Source names by association identifier; empty for an unknown peer."""
        self._idle_since: dict[str, float] = {}
        """When the last message ended (``time.monotonic``), by association identifier."""
        self._evicted: set[str] = set()

    def make_room(self) -> bool:
        """Whether there is room for one more connection.

        When there are too many, the oldest connection that has not associated is ended. Well-behaved peers
        associate at once, so silent connections cannot lock them out.
        """
        maximum = self._settings.maximum_associations * CONNECTIONS_PER_ASSOCIATION
        with self._lock:
            count = len(self._threads)
            if count < maximum:
                return True
            slow = (a for a in self._threads.values() if a.identifier not in self._established)
            slowest = next((a for a in slow if a.identifier not in self._evicted), None)
            # Connections that were ended may need a moment to close.
            if slowest is None or count >= 2 * maximum:
                return False
            self._evicted.add(slowest.identifier)
        log.warning("connection_given_up peer=%s reason=%s", slowest.peer.address, "too many connections")
        slowest.connection.interrupt()
        return True

    def add_connection(self, thread: threading.Thread, association: Association) -> None:
        """Record a new connection and the thread that serves it."""
        with self._lock:
            self._threads[thread] = association

    def remove_connection(self, thread: threading.Thread) -> None:
        """Forget a connection that has ended."""
        with self._lock:
            identifier = self._threads.pop(thread).identifier
            self._established.pop(identifier, None)
            self._idle_since.pop(identifier, None)
            self._evicted.discard(identifier)

    def take_slot(self, association: Association) -> Rejection | None:
        """Take one of the slots for associations; the rejection to answer with if none is left."""
        source = source_of(self._settings, association.peer.calling_ae, association.peer.address)
        with self._lock:
            if source is not None and source.maximum_associations is not None:
                held = sum(name == source.name for name in self._established.values())
                if held >= source.maximum_associations:
                    return LOCAL_LIMIT
            full = len(self._established) >= self._settings.maximum_associations
            if full and not self._evict_idle():
                return LOCAL_LIMIT
            self._established[association.identifier] = "" if source is None else source.name
        return None

    def mark_idle(self, association: Association) -> None:
        """Note that an association waits for its next message."""
        with self._lock:
            self._idle_since[association.identifier] = time.monotonic()

    def mark_busy(self, association: Association) -> None:
        """Note that an association is handling a message."""
        with self._lock:
            self._idle_since.pop(association.identifier, None)

    def idle_seconds(self) -> Mapping[threading.Thread, tuple[Association, float]]:
        """Every thread with its association, and for how many seconds that has been idle.

        Before it is established, an association is idle from the moment the connection was opened.
        """
        now = time.monotonic()
        with self._lock:
            return {thread: (a, now - self._idle_start(a, now)) for thread, a in self._threads.items()}

    def _idle_start(self, association: Association, now: float) -> float:
        """When an association became idle; ``now`` if it is handling a message. The caller holds the lock."""
        if association.identifier not in self._established:
            return association.opened_at
        return self._idle_since.get(association.identifier, now)

    def _evict_idle(self) -> bool:
        """End the association that has been idle longest; False if none has been idle for ``GRACE_SECONDS``.

        The caller holds the lock.
        """
        held = {a.identifier: a for a in self._threads.values() if a.identifier in self._established}
        since, identifier = min(
            ((at, i) for i, at in self._idle_since.items() if i in held), default=(0.0, "")
        )
        if not identifier or time.monotonic() - since < GRACE_SECONDS:
            return False
        log.warning("association_given_up id=%s reason=%s", identifier, "idle while others wait")
        del self._established[identifier]
        self._evicted.add(identifier)
        held[identifier].abort()
        held[identifier].connection.interrupt()
        return True
