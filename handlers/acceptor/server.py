"""A receiver process: accepts connections and serves each association in a thread."""

from __future__ import annotations

import logging
import selectors
import socket
import ssl
import threading
import time
from pathlib import Path

from db.database import Database
from handlers.acceptor.capacity import Capacity
from handlers.acceptor.negotiation import answer_request
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
"""At a stop, an association idle for longer is aborted: a sender in the middle of a study pauses less."""


class Server:
    """Listens on the node's ports, which several processes can share, each with its own server."""

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
        self.capacity = Capacity(settings)
        self._delays = RejectionDelays()
        self._certificates = None if settings.tls is None else ServerCertificates(settings.tls)
        self._listeners = _open_listeners(settings)
        self._stopping = threading.Event()
        self._deadline = 0.0

    @property
    def port(self) -> int:
        """The port that we listen on; the unencrypted one if there is another for TLS."""
        return int(self._listeners[0][0].getsockname()[1])

    @property
    def tls_port(self) -> int:
        """The port that we listen on with TLS."""
        return int(self._listeners[-1][0].getsockname()[1])

    def serve_forever(self) -> None:
        """Accept associations until ``stop`` is called, then wait for the open ones to end."""
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
        """Stop accepting; active associations may go on for ``deadline_seconds``."""
        self._deadline = time.monotonic() + deadline_seconds
        self._stopping.set()

    def _accept(self, listener: socket.socket, certificates: ServerCertificates | None) -> None:
        try:
            connected, peer = listener.accept()
        except BlockingIOError:
            return  # the peer is already gone
        except OSError as error:
            log.error("accept_failed error=%s", error.strerror)
            self._stopping.wait(ACCEPT_SECONDS)
            return
        self._start_association(connected, peer[0], None if certificates is None else certificates.context)

    def _start_association(self, connected: socket.socket, address: str, tls: ssl.SSLContext | None) -> None:
        if not self.capacity.make_room():
            log.warning("connection_refused peer=%s reason=%s", address, "too many connections")
            connected.close()
            return
        association = Association(connected, address, self.settings, tls)
        thread = threading.Thread(
            target=self._serve_association, args=(association,), name="association", daemon=True
        )
        self.capacity.add_connection(thread, association)
        thread.start()

    def _serve_association(self, association: Association) -> None:
        """Serve one connection until it ends; never raises."""
        try:
            if self._negotiate(association):
                self._answer_messages(association)
        except AssociationReleased:
            pass
        except AssociationAborted as ended:
            # Load balancers connect without requesting an association, to see whether the port is open.
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
            # A fault in one association must not end the process; values stay out of the log.
            log.error("association_failed id=%s error=%s", association.identifier, type(error).__name__)
            association.abort()
        finally:
            association.connection.close()
            self.capacity.remove_connection(threading.current_thread())

    def _negotiate(self, association: Association) -> bool:
        """Read the request and answer it; whether the association is established."""
        request = association.read_request()
        answer = answer_request(request, association.peer.address, self.settings)
        if not isinstance(answer, Rejection):
            # Last, so that a request that is rejected anyway takes no slot.
            answer = self.capacity.take_slot(association) or answer
        if isinstance(answer, Rejection):
            self._reject(association, answer)
            return False
        association.accept(request, answer)
        return True

    def _reject(self, association: Association, rejection: Rejection) -> None:
        peer = association.peer
        if rejection is not LOCAL_LIMIT:
            self.audit.denied(peer, rejection.explanation)
            # Slows down peers that guess AE titles.
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
                self.capacity.mark_idle(association)
                message = exchange.receive()
                self.capacity.mark_busy(association)
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
        """Wait for the associations to end; abort idle ones early, and all of them at the deadline."""
        while running := self.capacity.idle_seconds():
            late = time.monotonic() > self._deadline
            for association, seconds in running.values():
                if late or seconds > PAUSE_SECONDS:
                    association.abort(by_user=True)
                    association.connection.close()
            for thread in running:
                thread.join(0.1)
            if late:
                return


def _open_listeners(settings: ReceiverSettings) -> list[tuple[socket.socket, bool]]:
    """The listening sockets, each with whether it speaks TLS."""
    tls = settings.tls
    ports = [(settings.port, tls is not None)]
    if tls is not None and tls.port is not None:
        ports = [(settings.port, False), (tls.port, True)]
    listeners: list[tuple[socket.socket, bool]] = []
    try:
        for port, speaks_tls in ports:
            listener = socket.create_server(
                (settings.host, port),
                family=socket.AF_INET6 if ":" in settings.host else socket.AF_INET,
                backlog=BACKLOG,
                reuse_port=True,
            )
            listener.setblocking(False)
            listeners.append((listener, speaks_tls))
    except OSError:
        for listener, _ in listeners:
            listener.close()
        raise
    return listeners
