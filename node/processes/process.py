"""What every process of the node shares: its name, its signals, its log."""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from handlers.spool.folders import make_durable
from node.configuration.configuration import Configuration
from node.errors import ENDED_ITSELF, CommandError
from node.processes.log_format import LogFormatter, LogStyle

log = logging.getLogger("overread.processes")

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that a process gets when its parent dies."""

M_MMAP_THRESHOLD = -3
"""mallopt(3): blocks from this size on are mapped, and go back to the system when they are freed."""
MAPPED_BYTES = 192 * 1024

STOP_SECONDS = 40.0
"""So long a process has to stop in order, also when its supervisor has died."""
FORMER_NODE_SECONDS = STOP_SECONDS + 20.0


def process_name(configuration: Configuration, role: str, number: int | None) -> str:
    """The name under which a process holds leases; the same after a restart, so that it finds its own again.

    A role that runs alone has no ``number``: there may be several on one machine, and leases of one that died run out.
    """
    which = f"pid{os.getpid()}" if number is None else number
    return f"{socket.gethostname()}:{configuration.node.port}:{role}-{which}"


def configure_log(process: str, style: LogStyle = "text") -> None:
    """Log to standard error, one record a line; libraries that could print values of datasets are quieted.

    ``process`` is the role, with its number where the node has several processes of it.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormatter(process, style))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # Python prints warnings to standard error too, and pydicom's quote the values that they are about.
    warnings.simplefilter("ignore")
    for name in (
        "pynetdicom",
        "pydicom",
        "apscheduler",
        "alembic",
        "httpx",
        "PIL",
        "highdicom",
        "matplotlib",
    ):
        logging.getLogger(name).setLevel(logging.ERROR)


def stop_event_on_signals(also: Callable[[], None] | None = None) -> threading.Event:
    """An event that SIGTERM and SIGINT set."""
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
    """Ask the kernel for SIGTERM when the supervisor dies, so that no orphan keeps a port, a lease or the data folder.

    What has not stopped a while later is ended.
    """
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    threading.Thread(target=_end_without, args=(parent,), name="parent", daemon=True).start()
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def _end_without(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    time.sleep(STOP_SECONDS)
    log.critical("ended_without_supervisor")
    os._exit(ENDED_ITSELF)


def keep_caches(configuration: Configuration) -> None:
    """Let libraries keep their caches in the data folder, where they would use the home or a temporary folder."""
    for variable, name in (("MPLCONFIGDIR", "matplotlib"), ("TORCHINDUCTOR_CACHE_DIR", "torchinductor")):
        os.environ.setdefault(variable, str(configuration.data_dir / "cache" / name))


def give_memory_back() -> None:
    """Have the buffers of associations mapped, so that many associations at once leave nothing allocated.

    The C library would raise the size from which it maps to that of the first buffer that is freed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)


def hold_data_folder(configuration: Configuration, *, whole: bool) -> int:
    """Keep other nodes off the data folder as long as the returned descriptor is open, here or in a child.

    A ``whole`` node clears up what no row knows when it starts, so no other receives there; receivers that run alone
    may be several. A former node that was killed has processes that finish what they do; they are waited for.

    Raises:
        CommandError: another node holds the folder.
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
    """Create the data folder and its parts, and the folder of a SQLite file, so that a cut of power leaves them."""
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
