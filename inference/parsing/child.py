"""The main program of a reader process: reads the files that it is handed, one after another, until its worker ends.

Started as ``python -m inference.parsing.child CHANNEL MEMORY PARENT MEMORY_BYTES`` with two inherited file
descriptors. Limits are set before anything that parses is imported. It loads no torch.
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
LAST_TO_LIVE = "1000"
"""Score by which the kernel ends this process first when the machine runs out of memory."""


def main() -> None:
    """Serve until the channel closes."""
    channel, memory, parent, memory_bytes = (int(argument) for argument in sys.argv[1:5])
    confine(parent, memory_bytes)
    from inference.parsing.operations import Operations

    with socket.socket(fileno=channel) as opened:
        wire.send(opened, wire.Message(number=0, document={"ready": True}))
        try:
            operations = Operations()
            while serve(opened, memory, operations):
                pass
        except (wire.Gone, OSError):
            pass  # the worker has ended, and so does its reader


def confine(parent: int, memory_bytes: int) -> None:
    """Set the limits of this process, and let it die with its worker."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(0)
    # A stop of the whole group lets the worker finish its batch, for which it needs its reader.
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
    Path("/proc/self/oom_score_adj").write_text(LAST_TO_LIVE)


def serve(channel: socket.socket, memory: int, operations: Operations) -> bool:
    """Answer one request; False where this process should not go on."""
    from inference.errors import ImageUnreadable

    request, descriptor = wire.receive_with_file(channel)
    with open(descriptor, "rb") as file:
        sound = True
        document: dict[str, object]
        values = None
        try:
            document, values = operations.run(request.document, file)
            pixels = 0 if values is None else wire.write_pixels(memory, values)
        except ImageUnreadable as error:
            document, pixels = {"unreadable": str(error)}, 0
        except MemoryError:
            document, pixels, sound = {"memory": True}, 0, False
        except OSError as error:
            document, pixels = {"system": error.errno}, 0
            if error.errno == errno.ENOMEM:  # as mmap(2) says it
                document, sound = {"memory": True}, False
        except Exception as error:  # parsers of damaged files raise what they like
            document, pixels = {"unreadable": f"the file is damaged ({type(error).__name__})"}, 0
    wire.send(channel, wire.Message(number=request.number, document=document, pixels=pixels))
    return sound


if __name__ == "__main__":
    main()
