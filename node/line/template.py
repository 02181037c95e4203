"""The process that stage processes are forked from: it has their libraries loaded, and does nothing else.

A fork of it starts in milliseconds and shares its memory. It has one thread, so that forking it is safe.

Usage: python -m node.line.template CHANNEL MODULE...
"""

from __future__ import annotations

import importlib
import os
import signal
import socket
import struct
import sys
import time

from inference.threads import thread_environment

FORK, WAIT = b"f", b"w"
"""Requests: fork a stage process, whose channel goes with the request; wait for the end of one."""
NUMBER = struct.Struct("<q")
"""Answers: the process ID of the fork; the exit code as in ``subprocess``, or ``STILL_RUNS``."""
STILL_RUNS = 1 << 32
WAIT_SECONDS = 10.0
POLL_SECONDS = 0.01


def main() -> None:
    """Answer requests until the worker closes the channel."""
    # A signal to stop goes to the whole process group, but the worker needs its stages to finish what is on the line.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Before the libraries read it. Stages need no threads of their own: there are as many stages as cores.
    os.environ.update(thread_environment(1))
    for module in sys.argv[2:]:
        importlib.import_module(module)
    from node.line.stage_child import serve

    with socket.socket(fileno=int(sys.argv[1])) as channel:
        while True:
            request, descriptors, _, _ = socket.recv_fds(channel, 1 + NUMBER.size, 1)
            if not request:
                return
            if request[:1] == WAIT:
                channel.sendall(NUMBER.pack(_exit_code(*NUMBER.unpack(request[1:]))))
                continue
            pid = os.fork()
            if pid == 0:
                channel.close()
                with socket.socket(fileno=descriptors[0]) as own:
                    serve(own)
                os._exit(0)
            os.close(descriptors[0])
            channel.sendall(NUMBER.pack(pid))


def _exit_code(pid: int) -> int:
    """The exit code of a child that ends now, negative for a signal."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(POLL_SECONDS)
    return STILL_RUNS


if __name__ == "__main__":
    main()
