"""One reader process from the worker's side: started, asked, and ended when it crashes, hangs or talks nonsense."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

from inference.errors import ImageUnreadable
from inference.reading import wire
from inference.reading.fields import Fields
from inference.reading.limits import ReaderLimits

log = logging.getLogger("overread.reader")

START_SECONDS = 60.0
END_SECONDS = 10.0
LONGEST_REASON = 300

_ROOT = Path(__file__).resolve().parents[2]
# The kernel ends a reader when the thread that started it ends, so that is one which lasts.
_STARTER = ThreadPoolExecutor(1, thread_name_prefix="reader-starter")


class ReaderProcess:
    """A process that reads one file at a time; not thread-safe.

    Raises:
        OSError: no process can be started.
    """

    def __init__(self, limits: ReaderLimits) -> None:
        self._limits = limits
        self._number = 0
        self._ready = False
        self.memory = os.memfd_create("overread-reader", os.MFD_CLOEXEC)
        self._channel, theirs = socket.socketpair()
        try:
            self.process = _STARTER.submit(_start, theirs.fileno(), self.memory, limits.memory_bytes).result()
        except BaseException:
            self._close_files()
            raise
        finally:
            theirs.close()

    @property
    def usable(self) -> bool:
        """Whether it can be asked for another file."""
        return self._channel.fileno() >= 0 and self.process.poll() is None

    def ask(self, request: dict[str, Any], file: BinaryIO) -> tuple[Fields, int]:
        """The checked frame of an answer about one file: its document, and how many bytes of pixels there are.

        Raises:
            ImageUnreadable: the file cannot be read, or reading it broke the process or its limits.
            OSError: the file cannot be read now, or the process does not start.
        """
        self._wait_until_ready()
        self._number += 1
        try:
            message = wire.Message(number=self._number, document=request)
            deadline = time.monotonic() + self._limits.seconds
            self._channel.settimeout(self._limits.seconds)
            wire.send(self._channel, message, file.fileno())
            answer = wire.receive(self._channel, deadline)
            if answer.number != self._number:
                raise wire.Nonsense("another request's answer")
            return self._understood(answer)
        except TimeoutError:
            self.end()
            raise self._broken("hangs", f"took longer than {self._limits.seconds:g} seconds") from None
        except (wire.Gone, BrokenPipeError):
            raise self._broken("died", f"crashed on this file ({self._how_it_ended()})") from None
        except wire.Nonsense:
            raise self.nonsense() from None

    def nonsense(self) -> ImageUnreadable:
        """End the process because of what it said; the reason for the file."""
        self.end()
        return self._broken("nonsense", "gave an answer that makes no sense")

    def end(self) -> None:
        """End the process now and wait until it is gone."""
        self.process.kill()
        self.process.wait()
        self._close_files()

    def _wait_until_ready(self) -> None:
        if self._ready:
            return
        try:
            hello = wire.receive(self._channel, time.monotonic() + START_SECONDS)
            self._ready = hello.document == {"ready": True}
        except (OSError, wire.Nonsense):
            self._ready = False
        if not self._ready:
            self.end()
            log.error("reader_not_started memory=%d", self._limits.memory_bytes)
            raise OSError(errno.ECHILD, "the reader process does not start")

    def _understood(self, answer: wire.Message) -> tuple[Fields, int]:
        fields = Fields(answer.document)
        if fields.has("unreadable"):
            reason = "".join(c if c.isprintable() else "?" for c in fields.text("unreadable"))
            raise ImageUnreadable(reason[:LONGEST_REASON])
        if fields.any("memory") is True:
            self.end()
            raise self._broken("memory", f"needed more memory than {self._limits.memory}")
        if fields.has("system"):
            number = fields.whole("system", 1, 4096)
            raise OSError(number, os.strerror(number))
        return fields, answer.pixels

    def _how_it_ended(self) -> str:
        try:
            status = self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:  # it closed its channel and lives on
            status = 0
        self.end()
        if status == -signal.SIGKILL:
            return "SIGKILL, as when memory runs out"
        return signal.Signals(-status).name if status < 0 else f"status {status}"

    def _broken(self, how: str, what: str) -> ImageUnreadable:
        log.warning("reader_replaced why=%s status=%s", how, self.process.returncode)
        return ImageUnreadable(f"the decoder {what}")

    def _close_files(self) -> None:
        if self._channel.fileno() >= 0:
            self._channel.close()
            os.close(self.memory)


def _start(channel: int, memory: int, memory_bytes: int) -> subprocess.Popen[bytes]:
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-P", "-m", "inference.parsing.child"]
    return subprocess.Popen(
        [*command, str(channel), str(memory), str(os.getpid()), str(memory_bytes)],
        pass_fds=(channel, memory),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        # Parsers quote values in warnings, and values may be a patient's.
        stderr=subprocess.DEVNULL,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            # One thread each: threads' stacks count as address space, and reading needs none.
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "MALLOC_ARENA_MAX": "1",
            # Blocks as large as a radiograph come from memory that is kept: mapping and clearing new pages
            # for each file takes longer than reading it.
            "MALLOC_MMAP_THRESHOLD_": str(32 * 1024 * 1024),
            "MALLOC_TRIM_THRESHOLD_": str(128 * 1024 * 1024),
        },
    )
