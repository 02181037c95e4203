"""The rejections with which we answer association requests (PS3.8 table 9-21)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """The fields of an A-ASSOCIATE-RJ, and an explanation for the log."""

    result: int
    source: int
    reason: int
    explanation: str


CONTEXT_NOT_SUPPORTED = Rejection(
    result=1, source=1, reason=2, explanation="application context name not supported"
)
CALLING_NOT_RECOGNIZED = Rejection(
    result=1, source=1, reason=3, explanation="calling AE title not recognized"
)
CALLED_NOT_RECOGNIZED = Rejection(result=1, source=1, reason=7, explanation="called AE title not recognized")
LOCAL_LIMIT = Rejection(result=2, source=3, reason=2, explanation="local limit exceeded")
