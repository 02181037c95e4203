"""The SOP classes and transfer syntaxes that the node supports."""

from __future__ import annotations

from functools import cache

from pydicom._uid_dict import UID_dictionary

VERIFICATION = "1.2.840.10008.1.1"
PATIENT_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.1.1"
PATIENT_ROOT_MOVE = "1.2.840.10008.5.1.4.1.2.1.2"
PATIENT_ROOT_GET = "1.2.840.10008.5.1.4.1.2.1.3"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
STUDY_ROOT_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
STUDY_ROOT_GET = "1.2.840.10008.5.1.4.1.2.2.3"
STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"
STORAGE_COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"
QUERY_RETRIEVE = frozenset(
    {PATIENT_ROOT_FIND, PATIENT_ROOT_MOVE, PATIENT_ROOT_GET, STUDY_ROOT_FIND, STUDY_ROOT_MOVE, STUDY_ROOT_GET}
)


@cache
def storage_sop_classes() -> frozenset[str]:
    """Every storage SOP class of the standard, including retired ones (PS3.4 section B.5, PS3.6 annex A)."""
    return frozenset(
        uid
        for uid, (name, kind, *_) in UID_dictionary.items()
        if kind == "SOP Class"
        and "Storage" in name
        and not any(word in name for word in ("Commitment", "Media Storage", "Storage Management"))
    )


@cache
def transfer_syntaxes() -> frozenset[str]:
    """Every transfer syntax of the standard that carries a dataset, including retired ones (PS3.5 annex A)."""
    return frozenset(
        uid
        for uid, (name, kind, *_) in UID_dictionary.items()
        if kind == "Transfer Syntax" and not any(word in name for word in ("MIME", "XML", "SMPTE", "Papyrus"))
    )
