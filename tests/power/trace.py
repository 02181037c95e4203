"""Records what a process does to its files and says to its peers, in order, from strace's output."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.peers.programs import program
from tests.peers.waiting import wait_until

CALLS = (
    "open openat creat mkdir mkdirat write writev pwrite64 pwritev pwritev2 lseek ftruncate truncate fallocate rename "
    "renameat renameat2 unlink unlinkat rmdir link linkat symlink symlinkat fsync fdatasync sync_file_range sendto "
    "sendmsg sendfile copy_file_range splice"
).split()
NOT_UNDERSTOOD = {
    "truncate", "fallocate", "link", "linkat", "symlink", "symlinkat", "writev", "pwritev", "pwritev2",
    "copy_file_range", "splice", "sendfile",
}  # fmt: skip
"""Recorded to fail the test: the node does not use them on its files, and the model of the disk lacks them."""
SHARED_MEMORY = "-shm"
"""SQLite's index of its log lies in mapped memory, need not survive, and is rebuilt."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A file was opened; it is new where ``create`` is set and there was none."""

    path: str
    create: bool
    truncate: bool


@dataclass(frozen=True, kw_only=True)
class FolderMade:
    path: str


@dataclass(frozen=True, kw_only=True)
class Written:
    """Bytes went into a file; at its end where ``offset`` is None."""

    path: str
    offset: int | None
    data: bytes


@dataclass(frozen=True, kw_only=True)
class Resized:
    path: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Renamed:
    path: str
    to: str


@dataclass(frozen=True, kw_only=True)
class Removed:
    path: str


@dataclass(frozen=True, kw_only=True)
class SyncBegun:
    """A sync covers what was finished before it began, and is done with its ``SyncEnded``."""

    path: str
    thread: int


@dataclass(frozen=True, kw_only=True)
class SyncEnded:
    path: str
    thread: int


@dataclass(frozen=True, kw_only=True)
class Said:
    """Bytes that left the process: to a TCP port of a peer, or to the standard output (port 0)."""

    port: int
    data: bytes


Operation = Opened | FolderMade | Written | Resized | Renamed | Removed | SyncBegun | SyncEnded | Said


class Recording:
    """A command that runs under strace; its operations below ``root`` once it has ended."""

    def __init__(
        self, command: Sequence[str | Path], root: Path, folder: Path, env: Mapping[str, str]
    ) -> None:
        self.root = root
        self.trace = folder / "trace.txt"
        self.log = folder / "log.txt"
        strace = program("strace")
        if subprocess.run([strace, "-o", "/dev/null", "true"], capture_output=True).returncode != 0:
            pytest.skip("strace may not trace processes here")
        options = ["-f", "-qq", "--seccomp-bpf", "-yy", "-xx", "-v", "-s", "33554432", "-e", "signal=none"]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [strace, *options, "-o", self.trace, "-e", f"trace={','.join(CALLS)}", *command],
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=env,
            )

    def running(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        """SIGTERM to the recorded process, which then ends in good order."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        for pid in children.read_text().split():
            subprocess.run(["kill", f"-{signal.SIGTERM.value}", pid], check=True)
        assert self.wait() == 0, self.log.read_text()

    def wait(self, seconds: float = 60) -> int:
        """The exit status of the recorded process."""
        wait_until(lambda: not self.running(), seconds, "the recorded process ends")
        return self._process.wait()

    def operations(self) -> list[Operation]:
        """What it did below ``root`` and said, in order."""
        with self.trace.open() as lines:
            return list(_Reader(self.root).read(lines))


LINE = re.compile(r"(\d+) +(?:<\.\.\. (\w+) resumed>(.*)|(\w+)\((.*))$", re.S)
RESULT = re.compile(r"\) += (-?\d+)(?:<(.*)>)?[^<>]*$", re.S)
STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')
HANDLE = re.compile(r"(\w+)<((?:\\x[0-9a-f]{2})+|\w+:\[[^\]]*\])(?:<[^>]*>)?>(\(deleted\))?")
PEER = re.compile(r"TCP(?:v6)?:\[.*->.*:(\d+)\]")


@dataclass
class _Handle:
    path: str
    position: int
    append: bool


class _Reader:
    """Puts calls together from the lines of their beginning and end.

    A line of a call's end stands behind those of all calls that had ended before, and a line of its beginning
    before those of all that began later: threads that overlap are seen as overlapping.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.handles: dict[int, _Handle] = {}

    def read(self, lines: Iterable[str]) -> Iterator[Operation]:
        begun: dict[int, str] = {}
        for line in lines:
            match = LINE.match(line.rstrip("\n"))
            assert match is not None, line[:200]
            thread = int(match[1])
            if match[2] is not None:
                arguments = begun.pop(thread)
                yield from self._end(thread, match[2], arguments, arguments + match[3])
            elif match[5].endswith(" <unfinished ...>"):
                begun[thread] = match[5].removesuffix(" <unfinished ...>")
                yield from self._begin(thread, match[4], begun[thread])
            else:
                yield from self._begin(thread, match[4], match[5])
                yield from self._end(thread, match[4], match[5], match[5])

    def _below(self, path: str) -> str | None:
        """A path relative to the root; None where it is elsewhere."""
        prefix = f"{self.root}/"
        if path == str(self.root):
            return "."
        if not path.startswith(prefix) or path.endswith(SHARED_MEMORY):
            return None
        return path.removeprefix(prefix)

    def _of_handle(self, arguments: str) -> str | None:
        match = HANDLE.match(arguments)
        return None if match is None or match[3] else self._below(_text(match[2]))

    def _begin(self, thread: int, call: str, arguments: str) -> Iterator[Operation]:
        if call in ("fsync", "fdatasync"):
            path = self._of_handle(arguments)
            if path is not None:
                yield SyncBegun(path=path, thread=thread)
        elif call in ("sendto", "sendmsg", "write"):
            match = HANDLE.match(arguments)
            if match is None:
                return
            peer = PEER.match(match[2])
            if peer is not None:
                yield Said(port=int(peer[1]), data=_bytes(arguments))
            elif call == "write" and match[1] == "1":
                yield Said(port=0, data=_bytes(arguments))

    def _end(self, thread: int, call: str, arguments: str, whole: str) -> Iterator[Operation]:
        result = RESULT.search(whole)
        if result is None or int(result[1]) < 0:
            if call in ("fsync", "fdatasync") and result is not None and self._of_handle(arguments):
                raise AssertionError(f"a sync failed: {whole[-100:]}")
            return
        number = int(result[1])
        if call in ("openat", "open", "creat"):
            path = self._below(_text(result[2]))
            if path is not None and "O_DIRECTORY" not in whole:
                self.handles[number] = _Handle(path=path, position=0, append="O_APPEND" in whole)
                yield Opened(
                    path=path,
                    create="O_CREAT" in whole or call == "creat",
                    truncate="O_TRUNC" in whole or call == "creat",
                )
        elif call in ("rename", "renameat", "renameat2", "mkdir", "mkdirat", "unlink", "unlinkat", "rmdir"):
            yield from self._names(call, arguments)
        elif (path := self._of_handle(arguments)) is not None:
            assert call not in NOT_UNDERSTOOD, f"the model of the disk lacks {call}"
            yield from self._contents(thread, call, path, arguments, number)

    def _names(self, call: str, arguments: str) -> Iterator[Operation]:
        paths = [self._below(path) for path in _paths(arguments)]
        path = paths[0]
        if call.startswith("rename"):
            assert (path is None) == (paths[1] is None), "a file was moved into or out of the data folder"
            if path is not None and paths[1] is not None:
                for handle in self.handles.values():
                    if handle.path == path:
                        handle.path = paths[1]
                yield Renamed(path=path, to=paths[1])
        elif path is not None:
            yield FolderMade(path=path) if call.startswith("mkdir") else Removed(path=path)

    def _contents(
        self, thread: int, call: str, path: str, arguments: str, number: int
    ) -> Iterator[Operation]:
        match = HANDLE.match(arguments)
        assert match is not None
        if call in ("fsync", "fdatasync"):
            yield SyncEnded(path=path, thread=thread)
        elif call == "pwrite64":
            offset = int(arguments.rsplit(", ", 1)[1].split(")")[0])
            yield Written(path=path, offset=offset, data=_bytes(arguments)[:number])
        elif call == "ftruncate":
            yield Resized(path=path, size=int(arguments.split(", ")[1].split(")")[0]))
        elif call in ("write", "lseek"):
            handle = self.handles[int(match[1])]
            assert handle.path == path, (handle.path, path)
            if call == "lseek":
                handle.position = number
                return
            data = _bytes(arguments)[:number]
            yield Written(path=path, offset=None if handle.append else handle.position, data=data)
            handle.position += number


def _bytes(arguments: str) -> bytes:
    """The strings among a call's arguments, one after the other."""
    found = STRING.findall(arguments)
    assert not any(cut for _, cut in found), "strace cut a string off"
    return b"".join(bytes.fromhex(text.replace("\\x", "")) for text, _ in found)


def _text(escaped: str) -> str:
    escaped = escaped.partition("<")[0]  # a device has its numbers behind its name
    return bytes.fromhex(escaped.replace("\\x", "")).decode() if "\\x" in escaped else escaped


def _paths(arguments: str) -> list[str]:
    """The paths of a call on names; those relative to a folder's handle with that folder."""
    paths = []
    folder = ""
    for match in re.finditer(rf"{HANDLE.pattern}|{STRING.pattern}", arguments):
        if match[2] is not None:
            folder = _text(match[2])
        else:
            path = _text(match[4])
            assert path.startswith("/") or folder, f"a relative path was used: {path}"
            paths.append(path if path.startswith("/") else f"{folder}/{path}")
    return paths
