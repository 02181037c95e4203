"""A peer's connection, with or without TLS, on which every read and write has a deadline.

A silent or slow peer cannot block it for long. It is used by one thread; other threads may only end it.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import threading
import time

from handlers.errors import AssociationAborted, HandshakeFailed, PeerTimeout
from handlers.upper_layer.tls import failure_reason

POLL_SECONDS = 1.0
"""The timeout of the socket itself: how often the deadline is checked while a peer is silent."""


class Connection:
    """A connected socket. Deadlines are times of ``time.monotonic``."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._thread = 0
        self._acknowledges_at_once = False
        look = struct.pack("ll", int(POLL_SECONDS), 0)
        connected.setblocking(True)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, look)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, look)

    def secure(self, tls: ssl.SSLContext, seconds: float, server_name: str | None = None) -> None:
        """Do the TLS handshake, in the thread that will use the connection.

        Args:
            tls: the context.
            seconds: the longest time for it.
            server_name: what the peer's certificate has to name, if we are the client; None: we are the server.

        Raises:
            HandshakeFailed, PeerTimeout, AssociationAborted: the handshake failed.
        """
        self._thread = threading.get_ident()
        plain = self._socket
        plain.settimeout(seconds)
        try:
            self._socket = tls.wrap_socket(
                plain,
                server_side=server_name is None,
                server_hostname=server_name,
                do_handshake_on_connect=False,
            )
            self._socket.do_handshake()
        except TimeoutError:
            raise PeerTimeout("the TLS handshake took too long") from None
        except ssl.SSLEOFError:
            raise AssociationAborted("the peer closed the connection in the TLS handshake") from None
        except ssl.SSLError as error:
            raise HandshakeFailed(f"the TLS handshake failed: {failure_reason(error)}") from None
        except OSError as error:
            raise AssociationAborted(f"the connection broke: {error.strerror}") from None
        self._socket.settimeout(POLL_SECONDS)

    def acknowledge_at_once(self) -> None:
        """From now on acknowledge what was read at each next read, without the usual delay of 40 ms.

        A peer that writes a PDU in two pieces and has Nagle's algorithm on, as DCMTK does by default, sends the second
        piece only when the first is acknowledged.
        """
        self._acknowledges_at_once = True

    def readable(self) -> bool:
        """Whether bytes can be read without waiting."""
        if isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0:
            return True
        waiting = select.poll()  # select.select() takes no descriptor above 1023
        waiting.register(self._socket, select.POLLIN)
        return bool(waiting.poll(0))

    def read_some(self, view: memoryview, deadline: float) -> int:
        """Read at least one byte into a view and return how many.

        Raises:
            PeerTimeout, AssociationAborted: nothing arrived.
        """
        while True:
            if time.monotonic() > deadline:
                raise PeerTimeout("the peer sent nothing, or too slowly")
            try:
                if self._acknowledges_at_once:
                    # The kernel forgets it each time (tcp(7)).
                    self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
                count = self._socket.recv_into(view)
            except (BlockingIOError, TimeoutError):
                continue
            except OSError as error:
                raise AssociationAborted(f"the connection broke: {error.strerror}") from None
            if count == 0:
                raise AssociationAborted("the peer closed the connection")
            return count

    def read_into(self, view: memoryview, deadline: float) -> memoryview:
        """Fill a view and return it.

        Raises:
            PeerTimeout, AssociationAborted: as ``read_some``.
        """
        position = 0
        while position < len(view):
            position += self.read_some(view[position:], deadline)
        return view

    def send(self, data: bytes, deadline: float) -> None:
        """Send all bytes.

        Raises:
            PeerTimeout, AssociationAborted: the peer does not read them.
        """
        view = memoryview(data)
        while view:
            try:
                view = view[self._socket.send(view) :]
            except (BlockingIOError, TimeoutError):
                if time.monotonic() > deadline:
                    raise PeerTimeout("the peer stopped reading") from None
            except OSError as error:
                raise AssociationAborted(f"the connection broke: {error.strerror}") from None

    def send_at_once(self, data: bytes) -> None:
        """Send last bytes without waiting, as far as the peer accepts them; callable from any thread, never raises."""
        try:
            if not isinstance(self._socket, ssl.SSLSocket):
                self._socket.send(data, socket.MSG_DONTWAIT)
            elif threading.get_ident() == self._thread:
                # Only the connection's own thread may touch its TLS state; from other threads nothing is sent.
                self._socket.settimeout(0)
                self._socket.send(data)
        except OSError:
            return

    def interrupt(self) -> None:
        """Shut the connection down, from any thread; reads in its own thread then end."""
        try:
            # Not ssl.SSLSocket.shutdown, which would drop the TLS state that the other thread uses.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        except OSError:
            return

    def close(self) -> None:
        """Close the connection, from any thread; reads in its own thread then end."""
        self.interrupt()
        self._socket.close()
