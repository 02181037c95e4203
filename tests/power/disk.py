"""A disk that keeps nothing but what was synced, and what may be left of the rest after a cut of power.

The rules are stricter than any real file system's: a file's bytes and size survive when the file was synced
after they were written; a name (made, moved, removed) survives when the folder that holds it was synced
afterwards, and syncing a file does not keep its name.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.power.trace import (
    FolderMade,
    Opened,
    Operation,
    Removed,
    Renamed,
    Resized,
    Said,
    SyncBegun,
    SyncEnded,
    Written,
)

SECTOR = 512

State = dict[str, bytes | None]
"""What is on the disk by path relative to the root: a file's bytes, None for a folder."""


def _apply(content: bytearray, change: tuple[int, bytes] | int) -> None:
    """One write (offset, bytes) or change of size."""
    if isinstance(change, int):
        del content[change:]
        content.extend(bytes(change - len(content)))
        return
    offset, data = change
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(data)] = data


@dataclass(eq=False)
class File:
    """A file's contents: what is synced, what was done since, and what a reader sees."""

    synced: bytes = b""
    pending: list[tuple[int, bytes] | int] = field(default_factory=list)
    live: bytearray = field(default_factory=bytearray)
    done: int = 0
    """How many changes were synced so far."""
    _frozen: bytes | None = None

    def change(self, change: tuple[int, bytes] | int) -> None:
        _apply(self.live, change)
        self.pending.append(change)
        self._frozen = None

    def sync(self, count: int) -> None:
        """The first ``count`` changes are on the disk."""
        content = bytearray(self.synced)
        for change in self.pending[:count]:
            _apply(content, change)
        self.synced = bytes(content)
        del self.pending[:count]

    def whole(self) -> bytes:
        if self._frozen is None:
            self._frozen = bytes(self.live)
        return self._frozen

    def torn(self, chance: random.Random) -> bytes:
        """Any sector of any write may have reached the disk, and any of the sizes that the file had."""
        if not self.pending:
            return self.synced
        part = chance.choice((0.1, 0.5, 0.9, 1.0))
        content = bytearray(self.synced)
        sizes = [len(content)]
        for change in self.pending:
            if isinstance(change, int):
                sizes.append(change)
                continue
            offset, data = change
            sizes.append(max(sizes[-1], offset + len(data)))
            position = offset
            while position < offset + len(data):
                end = min((position // SECTOR + 1) * SECTOR, offset + len(data))
                if chance.random() < part:
                    _apply(content, (position, data[position - offset : end - offset]))
                position = end
        _apply(content, chance.choice(sizes))
        return bytes(content)


@dataclass(eq=False)
class Change:
    """Names that a folder got (None: lost) at once. A move between folders is two, which survive a cut alike
    unless one of the folders was synced."""

    names: dict[str, Node | None]
    move: object = field(default_factory=object)

    def apply(self, entries: dict[str, Node]) -> None:
        for name, node in self.names.items():
            if node is None:
                entries.pop(name, None)
            else:
                entries[name] = node


@dataclass(eq=False)
class Folder:
    """A folder's names: what is synced, what was changed since, and what is seen."""

    synced: dict[str, Node] = field(default_factory=dict)
    pending: list[Change] = field(default_factory=list)
    live: dict[str, Node] = field(default_factory=dict)
    done: int = 0

    def change(self, change: Change) -> None:
        change.apply(self.live)
        self.pending.append(change)

    def sync(self, count: int) -> None:
        """The first ``count`` changes are on the disk."""
        for change in self.pending[:count]:
            change.apply(self.synced)
        del self.pending[:count]

    def torn(self, chance: random.Random, moves: dict[object, bool]) -> dict[str, Node]:
        """Any of the changes may have reached the disk; ``moves`` gets which moves did."""
        part = chance.choice((0.1, 0.5, 0.9, 1.0))
        entries = dict(self.synced)
        for change in self.pending:
            if moves.setdefault(change.move, chance.random() < part):
                change.apply(entries)
        return entries


Node = File | Folder


class Disk:
    """The disk below one folder, brought forward one operation at a time."""

    def __init__(self, root: Path) -> None:
        """As the folder is now, all of it synced."""
        self.root = _read(root)
        self._syncs: dict[tuple[int, str], tuple[Node, int]] = {}
        self.synced_changes = 0
        """How many changes were synced so far, over all files and folders."""

    def apply(self, operation: Operation) -> None:
        match operation:
            case Opened():
                self._open(operation)
            case FolderMade(path=path):
                self._name(path, Folder())
            case Written(path=path, offset=offset, data=data):
                file = self._file(path)
                file.change((len(file.live) if offset is None else offset, data))
            case Resized(path=path, size=size):
                self._file(path).change(size)
            case Removed(path=path):
                self._name(path, None)
            case Renamed(path=path, to=to):
                self._move(path, to)
            case SyncBegun(path=path, thread=thread):
                node = self._find(path)
                assert node is not None, path
                self._syncs[thread, path] = (node, node.done + len(node.pending))
            case SyncEnded(path=path, thread=thread):
                node, until = self._syncs.pop((thread, path))
                count = max(0, until - node.done)
                node.sync(count)
                node.done += count
                self.synced_changes += count
            case Said():
                pass

    def synced(self) -> State:
        """What is left where nothing survives that was not synced."""
        return self._state(lambda folder: folder.synced, lambda file: file.synced)

    def whole(self) -> State:
        """What is left where the processes were killed and the machine ran on."""
        return self._state(lambda folder: folder.live, File.whole)

    def torn(self, chance: random.Random) -> State:
        """What may be left where any part of the unsynced survives."""
        moves: dict[object, bool] = {}
        return self._state(lambda folder: folder.torn(chance, moves), lambda file: file.torn(chance))

    def _state(self, names: Callable[[Folder], dict[str, Node]], content: Callable[[File], bytes]) -> State:
        state: State = {}
        waiting: list[tuple[str, Folder]] = [("", self.root)]
        while waiting:
            prefix, folder = waiting.pop()
            for name, node in names(folder).items():
                if isinstance(node, Folder):
                    state[prefix + name] = None
                    waiting.append((f"{prefix}{name}/", node))
                else:
                    state[prefix + name] = content(node)
        return state

    def _open(self, opened: Opened) -> None:
        node = self._find(opened.path)
        if node is None and opened.create:
            node = File()
            self._name(opened.path, node)
        if opened.truncate and isinstance(node, File) and node.live:
            node.change(0)

    def _move(self, path: str, to: str) -> None:
        node = self._find(path)
        assert node is not None, path
        if self._parent(path) is self._parent(to):
            self._parent(path).change(Change(names={Path(path).name: None, Path(to).name: node}))
            return
        gone = Change(names={Path(path).name: None})
        self._parent(path).change(gone)
        self._parent(to).change(Change(names={Path(to).name: node}, move=gone.move))

    def _name(self, path: str, node: Node | None) -> None:
        self._parent(path).change(Change(names={Path(path).name: node}))

    def _file(self, path: str) -> File:
        node = self._find(path)
        assert isinstance(node, File), path
        return node

    def _parent(self, path: str) -> Folder:
        node = self._find(path.rpartition("/")[0] or ".")
        assert isinstance(node, Folder), path
        return node

    def _find(self, path: str) -> Node | None:
        node: Node | None = self.root
        for name in path.split("/") if path != "." else ():
            node = node.live.get(name) if isinstance(node, Folder) else None
        return node


def _read(path: Path) -> Folder:
    names: dict[str, Node] = {}
    for entry in path.iterdir():
        if entry.is_dir():
            names[entry.name] = _read(entry)
        elif entry.is_file():
            content = entry.read_bytes()
            names[entry.name] = File(synced=content, live=bytearray(content))
    return Folder(synced=dict(names), live=names)
