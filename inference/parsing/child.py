"""The main program of a reader process: reads one file after another for its worker, until the worker ends.

Usage: python -m inference.parsing.child CHANNEL MEMORY PARENT MEMORY_BYTES

CHANNEL and MEMORY are inherited file descriptors. The process sets its limits before it imports any parser, and
does not load torch.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from inference.reading import wire

if TYPE_CHECKING:
    from inference.parsing.operations import Operations

PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38
OPEN_FILES = 64
OOM_SCORE = "1000"
"""The highest oom_score_adj: when the machine runs out of memory, the kernel kills this process first."""


def main() -> None:
    """Answer requests until the channel closes."""
    channel, memory, parent, memory_bytes = (int(argument) for argument in sys.argv[1:5])
    confine(parent, memory_bytes)
    from inference.parsing.operations import Operations

    with socket.socket(fileno=channel) as opened:
        wire.send(opened, wire.Message(number=0, document={"ready": True}))
        try:
            operations = Operations()
            while serve(opened, memory, operations):
                pass
        except (wire.ChannelClosed, OSError):
            pass  # the worker has ended


def confine(parent: int, memory_bytes: int) -> None:
    """Limit this process, and have the kernel end it together with its worker.

    Args:
        parent: process id of the worker.
        memory_bytes: largest address space.
    """
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(0)
    # A signal to stop goes to the whole process group, but the worker still needs its reader to finish its batch.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for kind, limit in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_FSIZE, wire.MAXIMUM_PIXEL_BYTES),
    ):
        _, most = resource.getrlimit(kind)
        limit = limit if most == resource.RLIM_INFINITY else min(limit, most)
        resource.setrlimit(kind, (limit, limit))
    Path("/proc/self/oom_score_adj").write_text(OOM_SCORE)


def serve(channel: socket.socket, memory: int, operations: Operations) -> bool:
    """Answer one request; gives False if this process must end, since it ran out of memory."""
    from inference.errors import ImageUnreadable

    request, descriptor = wire.receive_with_file(channel)
    with open(descriptor, "rb") as file:
        usable = True
        document: dict[str, object]
        values = None
        try:
            document, values = operations.run(request.document, file)
            pixels = 0 if values is None else wire.write_pixels(memory, values)
        except ImageUnreadable as error:
            document, pixels = {"unreadable": str(error)}, 0
        except MemoryError:
            document, pixels, usable = {"memory": True}, 0, False
        except OSError as error:
            document, pixels = {"system": error.errno}, 0
            if error.errno == errno.ENOMEM:  # mmap(2) reports it this way
                document, usable = {"memory": True}, False
        except Exception as error:  # on damaged files, parsers raise almost anything
            document, pixels = {"unreadable": f"the file is damaged ({type(error).__name__})"}, 0
    wire.send(channel, wire.Message(number=request.number, document=document, pixels=pixels))
    return usable


if __name__ == "__main__":
    main()
