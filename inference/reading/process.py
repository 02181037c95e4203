"""One reader process, from the worker's side: started, asked, and ended if it crashes, hangs or sends rubbish."""

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
from inference.threads import thread_environment

log = logging.getLogger("overread.reader")

START_SECONDS = 60.0
END_SECONDS = 10.0
LONGEST_REASON = 300

_ROOT = Path(__file__).resolve().parents[2]
# The kernel ends a reader together with the thread that started it. So one long-lived thread starts them all.
_STARTER = ThreadPoolExecutor(1, thread_name_prefix="reader-starter")


class ReaderProcess:
    """A process that reads one file at a time. It is not thread-safe.

    Raises:
        OSError: the process cannot be started.
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
        """Whether the process can read another file."""
        return self._channel.fileno() >= 0 and self.process.poll() is None

    def ask(self, request: dict[str, Any], file: BinaryIO) -> tuple[Fields, int]:
        """Send a request about one file and wait for the answer.

        Returns:
            The answer's document, whose members are checked when they are read, and the bytes of pixels in the
            memory file.

        Raises:
            ImageUnreadable: the file cannot be read, it crashed the process, or it exceeded a limit.
            OSError: the file cannot be read now, or the process does not start.
        """
        self.wait_until_ready()
        self._number += 1
        try:
            message = wire.Message(number=self._number, document=request)
            deadline = time.monotonic() + self._limits.seconds
            self._channel.settimeout(self._limits.seconds)
            wire.send(self._channel, message, file.fileno())
            answer = wire.receive(self._channel, deadline)
            if answer.number != self._number:
                raise wire.MalformedMessage("another request's answer")
            return self._check_answer(answer)
        except TimeoutError:
            self.end()
            raise self._reader_failed("hangs", f"took longer than {self._limits.seconds:g} seconds") from None
        except (wire.ChannelClosed, BrokenPipeError):
            raise self._reader_failed("died", f"crashed on this file ({self._exit_reason()})") from None
        except wire.MalformedMessage:
            raise self.reject_answer() from None

    def reject_answer(self) -> ImageUnreadable:
        """End the process because its answer is invalid.

        Returns:
            The error that refuses the file.
        """
        self.end()
        return self._reader_failed("nonsense", "gave an answer that makes no sense")

    def end(self) -> None:
        """Kill the process and wait until it is gone."""
        self.process.kill()
        self.process.wait()
        self._close_files()

    def wait_until_ready(self) -> None:
        """Wait until the process can read.

        Raises:
            OSError: it does not start.
        """
        if self._ready:
            return
        try:
            hello = wire.receive(self._channel, time.monotonic() + START_SECONDS)
            self._ready = hello.document == {"ready": True}
        except (OSError, wire.MalformedMessage):
            self._ready = False
        if not self._ready:
            self.end()
            log.error("reader_not_started memory=%d", self._limits.memory_bytes)
            raise OSError(errno.ECHILD, "the reader process does not start")

    def _check_answer(self, answer: wire.Message) -> tuple[Fields, int]:
        fields = Fields(answer.document)
        if fields.has("unreadable"):
            reason = "".join(c if c.isprintable() else "?" for c in fields.text("unreadable"))
            raise ImageUnreadable(reason[:LONGEST_REASON])
        if fields.value("memory") is True:
            self.end()
            raise self._reader_failed("memory", f"needed more memory than {self._limits.memory}")
        if fields.has("system"):
            number = fields.integer("system", 1, 4096)
            raise OSError(number, os.strerror(number))
        return fields, answer.pixels

    def _exit_reason(self) -> str:
        try:
            status = self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:  # it closed its channel but still runs
            status = 0
        self.end()
        if status == -signal.SIGKILL:
            return "SIGKILL, as when memory runs out"
        return signal.Signals(-status).name if status < 0 else f"status {status}"

    def _reader_failed(self, how: str, what: str) -> ImageUnreadable:
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
            # The stacks of threads count as address space, and reading needs no threads.
            **thread_environment(1),
            "MALLOC_ARENA_MAX": "1",
            # malloc keeps blocks as large as a radiograph: mapping and clearing new pages for each file would
            # take longer than reading it.
            "MALLOC_MMAP_THRESHOLD_": str(32 * 1024 * 1024),
            "MALLOC_TRIM_THRESHOLD_": str(128 * 1024 * 1024),
        },
    )
