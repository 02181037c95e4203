"""What all processes of a node have in common: name, log, signals, caches and the lock on the data folder."""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from handlers.spool.folders import make_durable
from node.configuration.configuration import Configuration
from node.errors import ENDED_ITSELF, CommandError

log = logging.getLogger("overread.processes")

PR_SET_PDEATHSIG = 1
"""prctl(2): sets the signal that a process gets when its parent dies."""

M_MMAP_THRESHOLD = -3
"""mallopt(3): sets the size from which blocks are mapped; mapped blocks return to the system when freed."""
MAPPED_BYTES = 192 * 1024

STOP_SECONDS = 40.0
"""The time a process has to stop in order, also after its supervisor died."""
FORMER_NODE_SECONDS = STOP_SECONDS + 20.0
"""How long a new node waits for processes of a killed one."""


def process_name(configuration: Configuration, role: str, number: int | None) -> str:
    """The name under which a process holds leases.

    It is the same after a restart, so that a process can release its own leases. A role that runs alone has no
    ``number`` but its process ID in the name, since there may be several on one machine; its leases run out.
    """
    instance = f"pid{os.getpid()}" if number is None else number
    return f"{socket.gethostname()}:{configuration.node.port}:{role}-{instance}"


def stop_event_on_signals(also: Callable[[], None] | None = None) -> threading.Event:
    """An event that SIGTERM and SIGINT set; they also call ``also``."""
    stop = threading.Event()

    def handle(_signal: int, _frame: object) -> None:
        stop.set()
        if also is not None:
            also()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
    return stop


def reload_event_on_signal() -> threading.Event:
    """An event that SIGHUP sets."""
    reload = threading.Event()
    signal.signal(signal.SIGHUP, lambda _signal, _frame: reload.set())
    return reload


def die_with_parent(parent: int) -> None:
    """Make this process end when the supervisor dies, so that no orphan keeps a port, a lease or the data folder.

    The kernel then sends SIGTERM. If the process has not stopped ``STOP_SECONDS`` later, it exits.
    """
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    threading.Thread(target=_exit_without_supervisor, args=(parent,), name="parent", daemon=True).start()
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def _exit_without_supervisor(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    time.sleep(STOP_SECONDS)
    log.critical("ended_without_supervisor")
    os._exit(ENDED_ITSELF)


def keep_caches_in_data_folder(configuration: Configuration) -> None:
    """Point the caches of libraries to the data folder, instead of the home or a temporary folder."""
    for variable, name in (("MPLCONFIGDIR", "matplotlib"), ("TORCHINDUCTOR_CACHE_DIR", "torchinductor")):
        os.environ.setdefault(variable, str(configuration.data_dir / "cache" / name))


def map_large_buffers() -> None:
    """Allocate the buffers of associations by mmap, so that their memory returns to the system.

    By default the C library raises the threshold for mmap to the size of the first mapped block that is freed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)


def hold_data_folder(configuration: Configuration, *, whole: bool) -> int:
    """Lock the data folder against other nodes.

    A whole node deletes files without a row when it starts, so no other receiver may use the folder. Receivers that
    run alone may share it. Processes of a killed node finish their work first; this waits for them.

    Args:
        configuration: says where the folder is.
        whole: take the folder for a whole node, not for a receiver that runs alone.

    Returns:
        A descriptor. The lock lasts until it is closed here and in every child that inherits it.

    Raises:
        CommandError: another node uses the folder.
    """
    configuration.run_dir.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(configuration.run_dir / "node.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    deadline = time.monotonic() + FORMER_NODE_SECONDS
    waited = False
    while True:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_EX if whole else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise CommandError(
                    f"Another node uses {configuration.data_dir}: stop it first, or give this one another data folder."
                ) from None
        if not waited:
            log.warning("former_node_runs_still waiting=%.0f", FORMER_NODE_SECONDS)
            waited = True
        time.sleep(0.1)


def make_folders(configuration: Configuration) -> None:
    """Create the data folder with its subfolders, and the folder of a SQLite file, durably."""
    make_durable(
        configuration.data_dir,
        configuration.spool_dir,
        configuration.results_dir,
        configuration.models_dir,
        configuration.run_dir,
    )
    url = configuration.database_settings().url
    if url.startswith("sqlite:///"):
        make_durable(Path(url.removeprefix("sqlite:///")).parent)
