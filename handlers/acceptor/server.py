"""A receiver process: accepts connections, one thread for each association."""

from __future__ import annotations

import logging
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from db.database import Database
from handlers.acceptor import access
from handlers.acceptor.guesses import Guesses
from handlers.audit.trail import AuditTrail
from handlers.dimse.commands import C_CANCEL_RQ, C_ECHO_RQ, C_STORE_RQ
from handlers.errors import AssociationAborted, AssociationReleased, HandshakeFailed, NetworkError
from handlers.services.storage import Storage
from handlers.services.verification import verify
from handlers.settings import ReceiverSettings
from handlers.spool.files import make_folders
from handlers.upper_layer.association import Association, Service
from handlers.upper_layer.tls import ServerCertificates

log = logging.getLogger("overread.server")

ACCEPT_SECONDS = 0.5
BACKLOG = 512
CONNECTIONS_PER_ASSOCIATION = 3
"""Connections that have not associated yet may be this many times the associations."""
PAUSE_SECONDS = 2.0
"""A sender that stores a study leaves no longer pause between two objects: until then it may finish at a stop."""
GRACE_SECONDS = 5.0
"""An association that has asked for nothing for so long gives its place up where there is no other one."""


class Server:
    """Listens on the node's ports; several processes may, each with a server of its own."""

    def __init__(
        self,
        settings: ReceiverSettings,
        database: Database,
        run_directory: Path,
        services: Mapping[int, Service],
        audit: AuditTrail | None = None,
    ) -> None:
        self.settings = settings
        make_folders(settings.spool)
        self.audit = audit or AuditTrail(None)
        self.storage = Storage(database, settings, run_directory, self.audit)
        self._guesses = Guesses()
        self.services: dict[int, Service] = {C_STORE_RQ: self.storage, C_ECHO_RQ: verify, **services}
        self._certificates = None if settings.tls is None else ServerCertificates(settings.tls)
        self._listeners = _listen(settings)
        self._stopping = threading.Event()
        self._deadline = 0.0
        self._lock = threading.Lock()
        self._threads: dict[threading.Thread, Association] = {}
        self._established: dict[str, str] = {}
        """Name of the source, empty for an unknown one, by the association's identifier."""
        self._idle: dict[str, float] = {}
        """Since when an association is between two messages."""
        self._given_up: set[str] = set()

    @property
    def port(self) -> int:
        """The port that is listened on; in clear where there is another for TLS."""
        return int(self._listeners[0][0].getsockname()[1])

    @property
    def tls_port(self) -> int:
        """The port that is listened on with TLS."""
        return int(self._listeners[-1][0].getsockname()[1])

    def serve_forever(self) -> None:
        """Accept associations until ``stop`` is called and those that run have ended."""
        with selectors.DefaultSelector() as selector:
            for listener, tls in self._listeners:
                selector.register(listener, selectors.EVENT_READ, self._certificates if tls else None)
            while not self._stopping.is_set():
                if self._certificates is not None:
                    self._certificates.renew()
                for key, _ in selector.select(ACCEPT_SECONDS):
                    assert isinstance(key.fileobj, socket.socket)
                    self._accept(key.fileobj, key.data)
        for listener, _ in self._listeners:
            listener.close()
        self._drain()
        self.storage.close()

    def stop(self, deadline_seconds: float) -> None:
        """Stop accepting; associations that are in use have until the deadline."""
        self._deadline = time.monotonic() + deadline_seconds
        self._stopping.set()

    def _accept(self, listener: socket.socket, certificates: ServerCertificates | None) -> None:
        try:
            connection, peer = listener.accept()
        except BlockingIOError:
            return  # the peer has gone again
        except OSError as error:
            log.error("accept_failed error=%s", error.strerror)
            self._stopping.wait(ACCEPT_SECONDS)
            return
        self._start(connection, peer[0], None if certificates is None else certificates.context)

    def _start(self, connection: socket.socket, address: str, tls: ssl.SSLContext | None) -> None:
        if not self._make_room():
            log.warning("connection_refused peer=%s reason=too many connections", address)
            connection.close()
            return
        association = Association(connection, address, self.settings, tls)
        thread = threading.Thread(target=self._serve, args=(association,), name="association", daemon=True)
        with self._lock:
            self._threads[thread] = association
        thread.start()

    def _make_room(self) -> bool:
        """Give up the connection that has taken longest to associate where there are too many.

        A peer in good order associates at once, so those that keep silent cannot lock it out.
        """
        most = self.settings.maximum_associations * CONNECTIONS_PER_ASSOCIATION
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
        log.warning("connection_given_up peer=%s reason=too many connections", slowest.peer_address)
        slowest.interrupt()
        return True

    def _serve(self, association: Association) -> None:
        try:
            self._run(association)
        except AssociationReleased:
            pass
        except AssociationAborted as ended:
            # Who has not even asked for an association looks whether the port is open, as load balancers do.
            level = logging.INFO if association.calling_ae else logging.DEBUG
            log.log(level, "association_aborted id=%s reason=%s", association.identifier, ended)
        except NetworkError as ended:
            if isinstance(ended, HandshakeFailed):
                self.audit.denied(association, str(ended))
            log.warning(
                "association_broken id=%s peer=%s reason=%s",
                association.identifier,
                association.peer_address,
                ended,
            )
            association.abort()
        except Exception as error:
            # One association's fault must not end the process; values stay out of the log.
            log.error("association_failed id=%s error=%s", association.identifier, type(error).__name__)
            association.abort()
        finally:
            association.close()
            with self._lock:
                self._established.pop(association.identifier, None)
                self._idle.pop(association.identifier, None)
                self._given_up.discard(association.identifier)
                self._threads.pop(threading.current_thread(), None)

    def _run(self, association: Association) -> None:
        rejection = association.negotiate(
            lambda: self._admit(association), lambda rejection: self._before_rejecting(association, rejection)
        )
        if rejection is not None:
            log.warning(
                "association_rejected peer=%s reason=%s", association.peer_address, rejection.explanation
            )
            association.wait_for_close()
            return
        stored = False
        released = False
        try:
            while True:
                self._mark(association, idle=True)
                message = association.receive()
                self._mark(association, idle=False)
                field = message.command.command_field
                if field == C_CANCEL_RQ:
                    continue
                service = self.services.get(field)
                if service is None:
                    log.warning("command_not_supported id=%s field=%04X", association.identifier, field)
                    association.abort()
                    return
                stored = stored or field == C_STORE_RQ
                service(association, message)
        except AssociationReleased:
            released = True
            raise
        finally:
            if stored:
                self.storage.association_ended(association, released=released)

    def _admit(self, association: Association) -> access.Rejection | None:
        """Take one of the places for associations; a rejection where there is none left."""
        source = access.source_of(self.settings, association.calling_ae, association.peer_address)
        with self._lock:
            if source is not None and source.maximum_associations is not None:
                held = sum(name == source.name for name in self._established.values())
                if held >= source.maximum_associations:
                    return access.LOCAL_LIMIT
            full = len(self._established) >= self.settings.maximum_associations
            if full and not self._give_up_idle():
                return access.LOCAL_LIMIT
            self._established[association.identifier] = "" if source is None else source.name
        return None

    def _give_up_idle(self) -> bool:
        """End the association that has been idle for longest; False where none has been for long. Under the lock."""
        held = {a.identifier: a for a in self._threads.values() if a.identifier in self._established}
        since, identifier = min(((at, i) for i, at in self._idle.items() if i in held), default=(0.0, ""))
        if not identifier or time.monotonic() - since < GRACE_SECONDS:
            return False
        log.warning("association_given_up id=%s reason=idle while others wait", identifier)
        del self._established[identifier]
        self._given_up.add(identifier)
        held[identifier].abort()
        held[identifier].interrupt()
        return True

    def _before_rejecting(self, association: Association, rejection: access.Rejection) -> None:
        """Record who was turned away; whoever guesses has to wait for the answer."""
        if rejection is access.LOCAL_LIMIT:
            return
        self.audit.denied(association, rejection.explanation)
        if not self._guesses.hold(association.peer_address, self._stopping):
            raise AssociationAborted("too many rejected peers of this address wait already")

    def _mark(self, association: Association, *, idle: bool) -> None:
        with self._lock:
            if idle:
                self._idle[association.identifier] = time.monotonic()
            else:
                self._idle.pop(association.identifier, None)

    def _quiet_since(self, association: Association, now: float) -> float:
        """Since when nothing has been asked for; ``now`` in the middle of a message. Under the lock."""
        if association.identifier not in self._established:
            return association.opened_at
        return self._idle.get(association.identifier, now)

    def _drain(self) -> None:
        """Wait for the associations; abort those that are between messages for long, and all when time is up."""
        while True:
            now = time.monotonic()
            with self._lock:
                running = dict(self._threads)
                idle = {a: now - self._quiet_since(a, now) for a in running.values()}
            if not running:
                return
            late = now > self._deadline
            for association in running.values():
                if late or idle[association] > PAUSE_SECONDS:
                    association.abort(by_user=True)
                    association.close()
            for thread in running:
                thread.join(0.1)
            if late:
                return


def _listen(settings: ReceiverSettings) -> list[tuple[socket.socket, bool]]:
    """The listening sockets, and whether each speaks TLS."""
    tls = settings.tls
    ports = [(settings.port, tls is not None)]
    if tls is not None and tls.port is not None:
        ports = [(settings.port, False), (tls.port, True)]
    listeners: list[tuple[socket.socket, bool]] = []
    try:
        for port, chosen in ports:
            listener = socket.create_server(
                (settings.host, port),
                family=socket.AF_INET6 if ":" in settings.host else socket.AF_INET,
                backlog=BACKLOG,
                reuse_port=True,
            )
            listener.setblocking(False)
            listeners.append((listener, chosen))
    except OSError:
        for listener, _ in listeners:
            listener.close()
        raise
    return listeners
