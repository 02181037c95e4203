"""Storage commitment: reading and writing its requests and reports.

References: PS3.4 annex J (Storage Commitment Push Model), tables J.3-1 (request) and J.3-2 (report).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO

from pydicom.dataset import Dataset
from pynetdicom.dsutils import decode

from db.records import Reference
from handlers.encoding.elements import walk
from handlers.encoding.uids import IMPLICIT_LITTLE, is_uid
from handlers.errors import ScanError

REQUEST_COMMITMENT = 1
"""Action Type ID."""
ALL_COMMITTED = 1
SOME_FAILED = 2
"""Event Type IDs."""
NO_SUCH_INSTANCE = 0x0112
CLASS_INSTANCE_CONFLICT = 0x0119
PROCESSING_FAILURE = 0x0110
INVALID_ARGUMENT = 0x0115


class CommitmentError(Exception):
    """A request or report is malformed; the message goes into the Error Comment."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """The outcome of a transaction; ``failed`` maps instances to their Failure Reason (0008,1197)."""

    transaction_uid: str
    committed: tuple[Reference, ...]
    failed: Mapping[Reference, int] = field(default_factory=dict)


def decode_dataset(data: bytes, transfer_syntax: str) -> Dataset:
    """Decode an Action or Event Information, after checking its structure in bounded time.

    Raises:
        CommitmentError: the dataset is malformed, or nested too deeply.
    """
    try:
        for _ in walk(data, transfer_syntax):
            pass
        return decode(BytesIO(data), transfer_syntax == IMPLICIT_LITTLE, True)
    except ScanError as error:
        raise CommitmentError(str(error)) from None
    except (ValueError, TypeError, NotImplementedError, KeyError, OSError, EOFError):
        # pydicom raises these for values that do not fit their VR, and may quote the values.
        raise CommitmentError("the dataset cannot be decoded") from None


def read_request(dataset: Dataset) -> tuple[str, tuple[Reference, ...]]:
    """Read a request: its Transaction UID and the instances to commit.

    Raises:
        CommitmentError: one of these is missing or malformed.
    """
    references = _references(dataset, "ReferencedSOPSequence")
    if not references:
        raise CommitmentError("Referenced SOP Sequence is missing or empty")
    return _transaction_uid(dataset), references


def write_request(transaction_uid: str, references: Sequence[Reference]) -> Dataset:
    """The Action Information of a request (PS3.4 table J.3-1)."""
    dataset = Dataset()
    dataset.TransactionUID = transaction_uid
    dataset.ReferencedSOPSequence = [_reference_item(reference) for reference in references]
    return dataset


def read_report(dataset: Dataset) -> Report:
    """Read a report; a missing Failure Reason is taken as "processing failure".

    Raises:
        CommitmentError: a UID in it is missing or malformed.
    """
    failed: dict[Reference, int] = {}
    for item, reference in zip(
        dataset.get("FailedSOPSequence") or (), _references(dataset, "FailedSOPSequence"), strict=True
    ):
        reason = item.get("FailureReason")
        failed[reference] = reason if isinstance(reason, int) else PROCESSING_FAILURE
    return Report(
        transaction_uid=_transaction_uid(dataset),
        committed=_references(dataset, "ReferencedSOPSequence"),
        failed=failed,
    )


def write_report(report: Report, retrieve_ae_title: str) -> tuple[int, Dataset]:
    """The Event Type ID and Event Information of a report (PS3.4 table J.3-2)."""
    dataset = Dataset()
    dataset.RetrieveAETitle = retrieve_ae_title
    dataset.TransactionUID = report.transaction_uid
    dataset.ReferencedSOPSequence = [_reference_item(reference) for reference in report.committed]
    if not report.failed:
        return ALL_COMMITTED, dataset
    if not report.committed:
        del dataset.ReferencedSOPSequence
    dataset.FailedSOPSequence = [
        _reference_item(reference, reason) for reference, reason in report.failed.items()
    ]
    return SOME_FAILED, dataset


def _reference_item(reference: Reference, failure_reason: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = reference.sop_class_uid
    item.ReferencedSOPInstanceUID = reference.sop_instance_uid
    if failure_reason is not None:
        item.FailureReason = failure_reason
    return item


def _transaction_uid(dataset: Dataset) -> str:
    uid = dataset.get("TransactionUID")
    if not isinstance(uid, str) or not is_uid(uid):
        raise CommitmentError("Transaction UID is missing or malformed")
    return str(uid)


def _references(dataset: Dataset, keyword: str) -> tuple[Reference, ...]:
    references = []
    for item in dataset.get(keyword) or ():
        sop_class, instance = item.get("ReferencedSOPClassUID"), item.get("ReferencedSOPInstanceUID")
        if not (isinstance(sop_class, str) and isinstance(instance, str)):
            raise CommitmentError(f"an item of {keyword} lacks its UIDs")
        if not (is_uid(sop_class) and is_uid(instance)):
            raise CommitmentError(f"an item of {keyword} has malformed UIDs")
        references.append(Reference(sop_class_uid=str(sop_class), sop_instance_uid=str(instance)))
    return tuple(references)
