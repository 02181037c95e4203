"""A receiver process: accepts connections, one thread for each association."""

from __future__ import annotations

import logging
import selectors
import socket
import ssl
import threading
import time
from pathlib import Path

from db.database import Database
from handlers.acceptor.negotiation import decide
from handlers.acceptor.places import Places
from handlers.acceptor.rejection_delays import RejectionDelays
from handlers.audit.trail import AuditTrail
from handlers.dimse.commands import C_CANCEL_RQ, C_STORE_RQ
from handlers.dimse.messages import MessageExchange
from handlers.errors import AssociationAborted, AssociationReleased, HandshakeFailed, NetworkError
from handlers.services.offered import Services
from handlers.settings import ReceiverSettings
from handlers.spool.files import make_folders
from handlers.upper_layer.association import Association
from handlers.upper_layer.rejections import LOCAL_LIMIT, Rejection
from handlers.upper_layer.tls import ServerCertificates

log = logging.getLogger("overread.server")

ACCEPT_SECONDS = 0.5
BACKLOG = 512
PAUSE_SECONDS = 2.0
"""A sender that stores a study leaves no longer pause between two objects: until then it may finish at a stop."""


class Server:
    """Listens on the node's ports; several processes may, each with a server of its own."""

    def __init__(
        self,
        settings: ReceiverSettings,
        database: Database,
        data_folder: Path,
        run_directory: Path,
        audit: AuditTrail | None = None,
    ) -> None:
        self.settings = settings
        make_folders(settings.spool)
        self.audit = audit or AuditTrail(None)
        self.services = Services(settings, database, data_folder, run_directory, self.audit)
        self.places = Places(settings)
        self._delays = RejectionDelays()
        self._certificates = None if settings.tls is None else ServerCertificates(settings.tls)
        self._listeners = _listen(settings)
        self._stopping = threading.Event()
        self._deadline = 0.0

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
        self.services.close()

    def stop(self, deadline_seconds: float) -> None:
        """Stop accepting; associations that are in use have until the deadline."""
        self._deadline = time.monotonic() + deadline_seconds
        self._stopping.set()

    def _accept(self, listener: socket.socket, certificates: ServerCertificates | None) -> None:
        try:
            connected, peer = listener.accept()
        except BlockingIOError:
            return  # the peer has gone again
        except OSError as error:
            log.error("accept_failed error=%s", error.strerror)
            self._stopping.wait(ACCEPT_SECONDS)
            return
        self._start(connected, peer[0], None if certificates is None else certificates.context)

    def _start(self, connected: socket.socket, address: str, tls: ssl.SSLContext | None) -> None:
        if not self.places.make_room():
            log.warning("connection_refused peer=%s reason=%s", address, "too many connections")
            connected.close()
            return
        association = Association(connected, address, self.settings, tls)
        thread = threading.Thread(target=self._serve, args=(association,), name="association", daemon=True)
        self.places.enter(thread, association)
        thread.start()

    def _serve(self, association: Association) -> None:
        """One connection from its beginning to its end, whatever its peer does."""
        try:
            if self._negotiate(association):
                self._answer_messages(association)
        except AssociationReleased:
            pass
        except AssociationAborted as ended:
            # Who has not even asked for an association looks whether the port is open, as load balancers do.
            level = logging.INFO if association.peer.calling_ae else logging.DEBUG
            log.log(level, "association_aborted id=%s reason=%s", association.identifier, ended)
        except NetworkError as ended:
            if isinstance(ended, HandshakeFailed):
                self.audit.denied(association.peer, str(ended))
            log.warning(
                "association_broken id=%s peer=%s reason=%s",
                association.identifier,
                association.peer.address,
                ended,
            )
            association.abort()
        except Exception as error:
            # One association's fault must not end the process; values stay out of the log.
            log.error("association_failed id=%s error=%s", association.identifier, type(error).__name__)
            association.abort()
        finally:
            association.connection.close()
            self.places.leave(threading.current_thread())

    def _negotiate(self, association: Association) -> bool:
        """Read the request, decide, answer; whether there is an association now."""
        request = association.read_request()
        answer = decide(request, association.peer.address, self.settings)
        if not isinstance(answer, Rejection):
            # Last, so that a request that is not in order takes no place.
            answer = self.places.take(association) or answer
        if isinstance(answer, Rejection):
            self._reject(association, answer)
            return False
        association.accept(request, answer)
        return True

    def _reject(self, association: Association, rejection: Rejection) -> None:
        peer = association.peer
        if rejection is not LOCAL_LIMIT:
            self.audit.denied(peer, rejection.explanation)
            # Whoever guesses has to wait for the answer.
            if not self._delays.wait(peer.address, self._stopping):
                raise AssociationAborted("too many rejected peers of this address wait already")
        association.reject(rejection)
        log.warning("association_rejected peer=%s reason=%s", peer.address, rejection.explanation)
        association.wait_for_close()

    def _answer_messages(self, association: Association) -> None:
        exchange = MessageExchange(association)
        stored = False
        released = False
        try:
            while True:
                self.places.idle(association)
                message = exchange.receive()
                self.places.busy(association)
                field = message.command.command_field
                if field == C_CANCEL_RQ:
                    continue
                service = self.services.by_command.get(field)
                if service is None:
                    log.warning("command_not_supported id=%s field=%04X", association.identifier, field)
                    association.abort()
                    return
                stored = stored or field == C_STORE_RQ
                service(exchange, message)
        except AssociationReleased:
            released = True
            raise
        finally:
            if stored:
                self.services.storage.association_ended(association.peer, released=released)

    def _drain(self) -> None:
        """Wait for the associations; abort those that are between messages for long, and all when time is up."""
        while running := self.places.quiet():
            late = time.monotonic() > self._deadline
            for association, seconds in running.values():
                if late or seconds > PAUSE_SECONDS:
                    association.abort(by_user=True)
                    association.connection.close()
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
