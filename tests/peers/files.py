"""Written objects as files for a sender."""

from __future__ import annotations

from pathlib import Path

from pydicom.dataset import Dataset

from handlers.sending.sender import FileToSend


def file_to_send(path: Path, dataset: Dataset) -> FileToSend:
    """What a sender needs to know of an object that was written to a file."""
    return FileToSend(
        path=path,
        sop_class_uid=str(dataset.SOPClassUID),
        sop_instance_uid=str(dataset.SOPInstanceUID),
        transfer_syntax_uid=str(dataset.file_meta.TransferSyntaxUID),
    )
