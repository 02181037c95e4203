"""DIMSE statuses: those that we answer with, and what a peer's C-STORE status means for the object sent.

References: PS3.4 tables B.2-1 (storage), C.4-1 (C-FIND), C.4-2 (C-MOVE), C.4-3 (C-GET); PS3.7 annex C.
"""

from __future__ import annotations

from dataclasses import dataclass

SUCCESS = 0x0000
NO_SUCH_ACTION = 0x0123
INVALID_INSTANCE = 0x0117
SOP_CLASS_NOT_SUPPORTED = 0x0122
NOT_AUTHORIZED = 0x0124
OUT_OF_RESOURCES = 0xA700
CANNOT_CALCULATE_MATCHES = 0xA701
CANNOT_PERFORM_SUBOPERATIONS = 0xA702
DESTINATION_UNKNOWN = 0xA801
DATASET_DOES_NOT_MATCH = 0xA900
"""For a query: its identifier does not match the SOP class."""
SUBOPERATIONS_FAILED = 0xB000
CANNOT_UNDERSTAND = 0xC000
CANCELLED = 0xFE00
PENDING = 0xFF00

PERMANENT = "permanent"
TRANSIENT = "transient"
DELIVERED = "delivered"

_SINGLE = {
    SUCCESS: (DELIVERED, "success"),
    0x0001: (DELIVERED, "success, with an optional attribute not supported"),
    0x0107: (DELIVERED, "warning: attribute list error"),
    0x0111: (DELIVERED, "already there"),
    0x0116: (DELIVERED, "warning: attribute value out of range"),
    0x0110: (TRANSIENT, "processing failure"),
    SOP_CLASS_NOT_SUPPORTED: (PERMANENT, "SOP class not supported"),
    NOT_AUTHORIZED: (PERMANENT, "not authorized"),
    INVALID_INSTANCE: (PERMANENT, "invalid SOP instance"),
    0x0210: (TRANSIENT, "duplicate invocation"),
    0x0211: (PERMANENT, "unrecognized operation"),
    0x0212: (PERMANENT, "mistyped argument"),
    0x0213: (TRANSIENT, "resource limitation"),
}
_RANGES = (
    (0xA700, 0xA7FF, TRANSIENT, "out of resources"),
    (0xA900, 0xA9FF, PERMANENT, "the dataset does not match the SOP class"),
    (0xB000, 0xBFFF, DELIVERED, "warning"),
    (0xC000, 0xCFFF, PERMANENT, "cannot understand"),
)


@dataclass(frozen=True, kw_only=True)
class StatusMeaning:
    """Whether the peer now has the object, and if not, whether sending it again can help."""

    delivered: bool
    transient: bool
    text: str


def meaning(status: int) -> StatusMeaning:
    """What a C-STORE status (0x0000 to 0xFFFF) means; an unknown one counts as a permanent failure."""
    kind, text = _SINGLE.get(status, (None, ""))
    if kind is None:
        kind, text = next(
            ((kind, text) for low, high, kind, text in _RANGES if low <= status <= high),
            (PERMANENT, "unknown status"),
        )
    return StatusMeaning(
        delivered=kind == DELIVERED, transient=kind == TRANSIENT, text=f"{text} ({status:04X})"
    )
