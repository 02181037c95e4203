"""Runs files through an engine without a node, by the same selection and the same stages."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

from inference.engine import Engine
from inference.errors import ImageUnreadable
from inference.findings import Refusal
from inference.headers import ImageHeader
from inference.reading.files import read_header
from inference.reading.plain import is_plain_picture
from node.line.line import Line
from node.line.pool import StagePool
from node.line.work import Failure, Result, Work

POLL_SECONDS = 1.0
LONGEST_WAIT = 0.5
"""Seconds that a batch waits for items that are being prepared."""
NOT_SELECTED = "the engine does not select it"


@dataclass(frozen=True, kw_only=True)
class Input:
    """The files of one case. ``refused`` is why the engine does not get them."""

    files: Sequence[Path]
    series_instance_uid: str = ""
    refused: str | None = None


def run_inputs(
    engine: Engine, items: Sequence[Input], *, batch: int, threads: int
) -> Iterator[tuple[Input, list[Result]]]:
    """Run items through an engine by the same stages as in a node, and yield each with its results, in order.

    Args:
        engine: a loaded engine.
        items: the items.
        batch: most cases in one batch of the device.
        threads: how many items are prepared or concluded at once.

    Raises:
        DeviceLost: the engine's device no longer works in this process.
    """
    line: Line[int, list[Result]] = Line(StagePool(threads, None))
    waiting = deque(enumerate(items))
    finished: dict[int, list[Result]] = {}
    try:
        for number, item in enumerate(items):
            while number not in finished:
                while waiting and len(line.held()) < 2 * batch + threads:
                    line.put(_work_of(engine, *waiting.popleft(), batch))
                for work in line.take(POLL_SECONDS):
                    line.release(work)
                    made = work.made
                    assert made is not None
                    finished[work.item] = [made] if isinstance(made, Failure) else made
            yield item, finished.pop(number)
    finally:
        line.close()


def _work_of(engine: Engine, number: int, item: Input, batch: int) -> Work[int, list[Result]]:
    refusal = None if item.refused is None else Refusal(path=item.files[0], reason=item.refused)
    return Work(
        item=number,
        engine=engine,
        inputs=refusal or item.files,
        finish=list,
        most_in_batch=batch,
        longest_wait=LONGEST_WAIT,
        deadline_seconds=inf,
    )


def is_image(path: Path) -> bool:
    """Whether a file begins like DICOM (PS3.10 section 7.1), PNG or JPEG. It may still be damaged."""
    if is_plain_picture(path):
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM" and path.name != "DICOMDIR"
    except OSError:
        return False


def select(engine: Engine, files: Sequence[Path]) -> list[Input]:
    """Group files into inputs of an engine. Those that it does not select by their headers are marked as refused.

    Plain pictures and files with an unreadable header are inputs of their own, since the engine says best what is
    wrong with them.

    Args:
        engine: a loaded engine.
        files: DICOM files and plain pictures.

    Returns:
        The inputs in the order of their first files. A series is one input if the engine takes series.
    """
    inputs: dict[Path, Input] = {}
    series: dict[str, list[tuple[ImageHeader, Path]]] = {}
    for file in files:
        header = None if is_plain_picture(file) else _header(engine, file)
        if header is None:
            inputs[file] = Input(files=[file])
        else:
            series.setdefault(header.first("SeriesInstanceUID"), []).append((header, file))
    for series_uid, members in series.items():
        selection = engine.select([header for header, _ in members])
        by_uid: dict[str, list[Path]] = {}
        for header, file in members:
            by_uid.setdefault(header.sop_instance_uid, []).append(file)
        if engine.takes_series:
            chosen = [file for uid in dict.fromkeys(selection.inputs) for file in by_uid[uid]]
            inputs[members[0][1]] = Input(
                files=chosen or [file for _, file in members],
                series_instance_uid=series_uid,
                refused=None if chosen else selection.reasons or NOT_SELECTED,
            )
            continue
        for header, file in members:
            uid = header.sop_instance_uid
            reason = None if uid in selection.inputs else selection.refused.get(uid, NOT_SELECTED)
            inputs[file] = Input(files=[file], series_instance_uid=series_uid, refused=reason)
    return [inputs[file] for file in files if file in inputs]


def _header(engine: Engine, path: Path) -> ImageHeader | None:
    """The header of a file for selection; None where it cannot be read."""
    try:
        return read_header(path, engine.header_keywords | {"SeriesInstanceUID"})
    except ImageUnreadable:
        return None
