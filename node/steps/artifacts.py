"""Result files: writes DICOM objects to paths that are the same in a rerun, and describes them for the database."""

from __future__ import annotations

import hashlib

from db.records import Job, NewResult
from handlers.spool.stored_files import UnsyncedFiles
from sr_writer import WrittenObject, encode, result_attributes


def folder_of(job: Job) -> str:
    """The folder of a job's results, relative to the data folder."""
    return f"results/{job.id % 256:02x}/{job.id}"


def store(written: WrittenObject, job: Job, files: UnsyncedFiles) -> NewResult:
    """Write one DICOM object to the results folder, and describe it for the database.

    Raises:
        OSError: the disk is full or broken. Nothing is left behind.
    """
    dataset = written.dataset
    data = encode(written)
    path = f"{folder_of(job)}/{dataset.SOPInstanceUID}.dcm"
    files.put(path, data)
    return NewResult(
        kind=written.kind,
        study_instance_uid=str(dataset.StudyInstanceUID),
        series_instance_uid=str(dataset.SeriesInstanceUID),
        sop_instance_uid=str(dataset.SOPInstanceUID),
        sop_class_uid=str(dataset.SOPClassUID),
        transfer_syntax_uid=str(dataset.file_meta.TransferSyntaxUID),
        path=path,
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        attributes=result_attributes(dataset),
    )
