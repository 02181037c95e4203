"""UIDs: their form, those of the native transfer syntaxes, and the one that names this implementation."""

from __future__ import annotations

import re

IMPLEMENTATION_CLASS_UID = "2.25.210261923773755823133433978206546008893"
"""Implementation Class UID of associations and received files; results have the same one (a test compares)."""
IMPLEMENTATION_VERSION_NAME = "OVERREAD"

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
DEFLATED_LITTLE = "1.2.840.10008.1.2.1.99"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
NATIVE = (EXPLICIT_LITTLE, IMPLICIT_LITTLE)
"""The native transfer syntaxes that we send and answer in, the better one first."""

UID_FORM = re.compile(r"[0-9][0-9.]{0,63}")
"""Digits and dots, at most 64 (PS3.5 section 9.1). The readers of images have the same form (a test compares)."""


def is_uid(text: str | None) -> bool:
    """Whether a UID can be worked with.

    Leading zeros in a component are tolerated, since real archives hold them.
    """
    return text is not None and UID_FORM.fullmatch(text) is not None
