"""Result files: written so that they survive a power cut, at a place that a rerun finds again."""

from __future__ import annotations

import hashlib
import logging
import os
import uuid
from functools import lru_cache
from io import BytesIO
from pathlib import Path

from db.records import Job, NewResult
from handlers.folders import make_durable, sync_folder
from sr_writer.attributes import result_attributes
from sr_writer.context import WrittenObject

log = logging.getLogger("overread.artifacts")


def store(written: WrittenObject, job: Job, data_dir: Path) -> NewResult:
    """Write one DICOM object to the results folder, synced, and describe it for the database.

    Raises:
        OSError: the disk is full or broken; nothing but a temporary file is left behind.
    """
    dataset = written.dataset
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    data = buffer.getvalue()
    relative = Path("results") / f"{job.id % 256:02x}" / str(job.id) / f"{dataset.SOPInstanceUID}.dcm"
    write_synced(data_dir, relative, data)
    return NewResult(
        kind=written.kind,
        study_instance_uid=str(dataset.StudyInstanceUID),
        series_instance_uid=str(dataset.SeriesInstanceUID),
        sop_instance_uid=str(dataset.SOPInstanceUID),
        sop_class_uid=str(dataset.SOPClassUID),
        transfer_syntax_uid=str(dataset.file_meta.TransferSyntaxUID),
        path=str(relative),
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        attributes=result_attributes(dataset),
    )


def write_synced(root: Path, relative: Path, data: bytes) -> None:
    """Write a file below ``root`` under a temporary name, sync it, rename it and sync its folder.

    The bytes are synced before the name, since a rerun may replace a file that a row already speaks of.
    """
    path = root / relative
    if not path.parent.exists():
        _make_durable.cache_clear()
    for folder in reversed(relative.parents[:-1]):
        _make_durable(root / folder)
    temporary = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@lru_cache(maxsize=1024)
def _make_durable(folder: Path) -> None:
    """Once for each folder and process: another process that made it may not have synced its name."""
    make_durable(folder.parent, folder)


def clear_up(results: Path) -> None:
    """Remove the unfinished files of workers that died: no row knows them. Only while no worker runs."""
    unfinished = list(results.rglob(".*.part"))
    for path in unfinished:
        path.unlink()
    if unfinished:
        log.warning("results_cleared_up partial_removed=%d", len(unfinished))
