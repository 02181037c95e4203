"""Which SOP classes and transfer syntaxes the node takes, and which UIDs are well formed."""

from __future__ import annotations

import re
from functools import cache

from pydicom._uid_dict import UID_dictionary

IMPLEMENTATION_CLASS_UID = "2.25.308125871405226441153294208843611906401"
IMPLEMENTATION_VERSION = "OVERREAD_0_1"

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

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
DEFLATED_LITTLE = "1.2.840.10008.1.2.1.99"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"

UID_FORM = re.compile(r"[0-9.]{1,64}")


@cache
def storage_sop_classes() -> frozenset[str]:
    """Every storage SOP class of the standard, retired ones too (PS3.4 annex B.5 and PS3.6 annex A)."""
    return frozenset(
        uid
        for uid, (name, kind, *_) in UID_dictionary.items()
        if kind == "SOP Class"
        and "Storage" in name
        and not any(word in name for word in ("Commitment", "Media Storage", "Storage Management"))
    )


@cache
def transfer_syntaxes() -> frozenset[str]:
    """Every transfer syntax of the standard that carries a dataset, retired ones too (PS3.5 annex A)."""
    return frozenset(
        uid
        for uid, (name, kind, *_) in UID_dictionary.items()
        if kind == "Transfer Syntax" and not any(word in name for word in ("MIME", "XML", "SMPTE", "Papyrus"))
    )


def is_uid(text: str | None) -> bool:
    """Whether a UID can be worked with: digits and dots, at most 64 (PS3.5 section 9).

    Leading zeros in a component are tolerated, since real archives hold them.
    """
    return bool(text) and UID_FORM.fullmatch(text or "") is not None
