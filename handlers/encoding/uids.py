"""UIDs: their form, and those of the native transfer syntaxes and of this implementation."""

from __future__ import annotations

import re

IMPLEMENTATION_CLASS_UID = "2.25.210261923773755823133433978206546008893"
"""Implementation Class UID in associations and received files; results use the same one, as a test ensures."""
IMPLEMENTATION_VERSION_NAME = "OVERREAD"

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
DEFLATED_LITTLE = "1.2.840.10008.1.2.1.99"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
NATIVE = (EXPLICIT_LITTLE, IMPLICIT_LITTLE)
"""The native transfer syntaxes that we send and answer in, the preferred one first."""

UID_FORM = re.compile(r"[0-9][0-9.]{0,63}")
"""Digits and dots, at most 64 (PS3.5 section 9.1). The image readers use the same form, as a test ensures."""


def is_uid(text: str | None) -> bool:
    """Whether text has the form of a UID.

    Components with leading zeros are tolerated, because real archives contain them.
    """
    return text is not None and UID_FORM.fullmatch(text) is not None
