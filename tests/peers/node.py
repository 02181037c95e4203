"""A whole node of overread in a folder: the real processes on free ports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from db.database import Database, DatabaseSettings
from db.index import Index
from db.queue import Queue
from node.views.documents import Views
from tests.peers.faults.steps import Faults
from tests.peers.waiting import free_port, wait_until
from tests.peers.web import web_client

ENDED = frozenset({"succeeded", "skipped", "failed", "cancelled", "superseded"})

CONFIGURATION = """\
[node]
host = "127.0.0.1"
port = {port}
receivers = {receivers}

[database]
url = "{database}"

[web]
port = {web_port}

[completion]
quiet_seconds = {quiet_seconds}
"""

DESTINATION = """
[[destination]]
name = "{name}"
ae_title = "{ae_title}"
host = "127.0.0.1"
port = {port}
commit = {commit}
"""

CHEST = """
[[engine]]
name = "cxr"
kind = "chest_xray"
model = "{model}"
backend = "torch"

[[route]]
name = "chest x-rays"
match = {{ Modality = ["CR", "DX"], BodyPartExamined = "CHEST|THORAX" }}
engines = ["cxr"]
destinations = [{destinations}]
"""


class Node:
    """Starts with ``start`` or as a context manager; ``destinations`` are (name, AE title, port).

    ``faults`` are switches in its processes; ``elsewhere`` is their working, home and temporary folder;
    ``commit``: the destinations are asked for storage commitment.
    """

    def __init__(
        self,
        folder: Path,
        destinations: Sequence[tuple[str, str, int]] = (),
        *,
        receivers: int = 2,
        quiet_seconds: float = 1.0,
        model: str = "demo",
        database: str = "sqlite:///var/overread.db",
        extra: str = "",
        routed: Sequence[str] | None = None,
        engine: bool = True,
        python_path: Path | None = None,
        preload: Path | None = None,
        faults: Faults | None = None,
        elsewhere: Path | None = None,
        commit: bool = False,
    ) -> None:
        self.folder = folder
        self.receivers = receivers
        self.port = free_port()
        self.web_port = free_port()
        self._web = web_client(self.web_port, timeout=2)
        self.configuration = folder / "config.toml"
        folder.mkdir(parents=True, exist_ok=True)
        names = [name for name, _, _ in destinations] if routed is None else routed
        self.configuration.write_text(
            CONFIGURATION.format(
                port=self.port,
                web_port=self.web_port,
                receivers=receivers,
                quiet_seconds=quiet_seconds,
                database=database,
            )
            + "".join(
                DESTINATION.format(name=n, ae_title=a, port=p, commit=str(commit).lower())
                for n, a, p in destinations
            )
            + (
                CHEST.format(model=model, destinations=", ".join(f'"{name}"' for name in names))
                if engine
                else ""
            )
            + extra
        )
        self.database = database
        self.engine = engine
        self.python_path = python_path
        self.preload = preload
        self.faults = faults
        self.elsewhere = elsewhere
        if elsewhere is not None:
            elsewhere.mkdir(parents=True, exist_ok=True)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Node:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def data_dir(self) -> Path:
        return self.folder / "var"

    @property
    def log(self) -> str:
        """What the node has logged so far."""
        return (self.folder / "node.log").read_text()

    def start(self) -> None:
        """Start and wait until the node is ready and its worker has loaded the model or named what it lacks."""
        seen = len(self.log) if (self.folder / "node.log").exists() else 0
        with (self.folder / "node.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "node.cli", "serve", "-c", self.configuration],
                stdout=log,
                stderr=log,
                env=self._environment() | ({} if self.preload is None else {"LD_PRELOAD": str(self.preload)}),
                cwd=self.elsewhere,
            )
        wait_until(self._ready, 120, "the node is ready")
        if self.engine:
            wait_until(lambda: "model_" in self.log[seen:], 120, "the worker has looked for its model")

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        if self._process is None:
            return 0
        process, self._process = self._process, None
        process.send_signal(signal.SIGTERM)
        return process.wait(60)

    def reload(self) -> None:
        """SIGHUP: read the configuration again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def kill(self) -> None:
        """SIGKILL to the supervisor and all its processes, as a power cut would."""
        assert self._process is not None
        pids = self._children()
        os.kill(self._process.pid, signal.SIGKILL)
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._process.wait(10)
        self._process = None

    def kill_supervisor(self) -> None:
        """SIGKILL to the supervisor alone; its processes have to end by themselves."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)
        self._process = None

    def pids(self, role: str) -> list[int]:
        """The processes of one role."""
        return [pid for pid in self._children() if f"--role\0{role}\0" in _command(pid)]

    def command(self, *arguments: str, status: int = 0) -> str:
        """Run the node's command line; its standard output. Fails where the exit status is another."""
        done = subprocess.run(
            [sys.executable, "-m", "node.cli", *arguments, "-c", self.configuration],
            capture_output=True,
            text=True,
            timeout=300,
            env=self._environment(),
        )
        assert done.returncode == status, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def json(self, *arguments: str, status: int = 0) -> Any:
        """The document that a command prints with --json."""
        return json.loads(self.command(*arguments, "--json", status=status))

    def jobs(self) -> list[dict[str, Any]]:
        """All jobs, oldest first, as ``show --json`` prints them, read from the database."""
        with self._database() as database:
            views = Views(database)
            return [views.job_in_full(job) for job in reversed(views.queue.jobs(limit=10_000))]

    def study(self, study_instance_uid: str) -> dict[str, Any] | None:
        """A study as ``show --json`` prints it, read from the database."""
        with self._database() as database:
            return Views(database).study(study_instance_uid)

    def quarantined(self) -> int:
        """How many objects are in quarantine."""
        with self._database() as database:
            return len(Index(database).quarantined())

    @contextmanager
    def _database(self) -> Iterator[Database]:
        url = self.database.replace("///var", f"///{self.data_dir}")
        database = Database.open(DatabaseSettings(url=url, wait_seconds=60))
        try:
            yield database
        finally:
            database.close()

    def wait_for_jobs(
        self, count: int, seconds: float = 180, but: Collection[str] = ()
    ) -> list[dict[str, Any]]:
        """All jobs, once that many have ended and everything they made has been sent or given up.

        Deliveries to the destinations ``but`` may wait.
        """

        with self._database() as database:
            queue = Queue(database)

            def settled() -> list[dict[str, Any]] | None:
                states = queue.counts()
                if sum(states.values()) < count or not ENDED.issuperset(s for s, n in states.items() if n):
                    return None
                jobs = self.jobs()
                left = [
                    delivery
                    for job in jobs
                    for delivery in job["deliveries"]
                    if delivery["state"] not in ("sent", "committed", "failed")
                    and delivery["destination"] not in but
                ]
                return jobs if not left and ENDED.issuperset(job["state"] for job in jobs) else None

            return wait_until(settled, seconds, f"{count} jobs have ended")

    def ready(self) -> dict[str, str]:
        """What ``/readyz`` says; nothing while the web process does not answer as it should."""
        try:
            return dict(self._web.get("/readyz").json())
        except (httpx.HTTPError, ValueError):
            return {}

    def _ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the node ended: {self.log}"
        return set(self.ready().values()) == {"ok"}

    def _environment(self) -> dict[str, str]:
        paths = [Path(__file__).resolve().parents[2]]
        further: dict[str, str] = {}
        if self.python_path is not None:
            paths.append(self.python_path)
        if self.faults is not None:
            paths.append(self.faults.python_path)
            further |= self.faults.environment
        if self.elsewhere is not None:
            further |= dict.fromkeys(
                ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"), str(self.elsewhere)
            )
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            **further,
        }

    def _children(self) -> list[int]:
        assert self._process is not None
        listed = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        return [int(pid) for pid in listed.split()]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
