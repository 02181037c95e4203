"""Codes in reports: verified ones from pydicom's dictionaries, all others from one private scheme.

A code that is neither in the dictionaries nor among the ribs listed here cannot be verified. It is replaced by a code
of the private scheme 99OVERREAD, which each report declares.

References: PS3.16 section 8 (coding schemes), PS3.3 section C.12.1.1.1 (Coding Scheme Identification).
"""

from __future__ import annotations

import hashlib
import re

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from inference import findings
from inference.findings import Label, Presence, Severity
from sr_writer.elements import item, text_element
from sr_writer.strings import LONG_STRING, plain

PRIVATE_SCHEME = "99OVERREAD"
"""Coding Scheme Designator (0008,0102) of the private scheme; PS3.16 section 8.2 reserves the prefix 99 for them."""

VERIFIABLE_SCHEMES = ("DCM", "SCT", "LN", "UCUM", "RADLEX")
"""Designators of the schemes that the dictionaries have."""

CODE_VALUE_LENGTH = 16
"""Most characters of a Code Value (0008,0100), VR SH."""

SEVERITY_LEVEL = Code("SEVERITY", PRIVATE_SCHEME, "Severity level")
"""Concept name of the severity level. The level follows from the certainty, so it is not SNOMED CT's severity."""

SEVERITY: dict[Severity, Code] = {
    Severity.NONE: Code("SEVERITY-NONE", PRIVATE_SCHEME, "None"),
    Severity.LOW: Code("SEVERITY-LOW", PRIVATE_SCHEME, "Low"),
    Severity.HIGH: Code("SEVERITY-HIGH", PRIVATE_SCHEME, "High"),
    Severity.CRITICAL: Code("SEVERITY-CRIT", PRIVATE_SCHEME, "Critical"),
}

RISK_CATEGORY: Code = codes.DCM.LesionRisk
"""Concept name of a lesion's risk category, which follows from its malignancy."""

MILLILITER = Code("ml", "UCUM", "ml")
"""The unit that the dictionaries lack, composed as UCUM defines it: litre with the prefix for a thousandth."""

RISK: dict[str, Code] = {
    "low": Code("RISK-LOW", PRIVATE_SCHEME, "Low risk"),
    "intermediate": Code("RISK-INTERMED", PRIVATE_SCHEME, "Intermediate risk"),
    "high": Code("RISK-HIGH", PRIVATE_SCHEME, "High risk"),
}

PRESENCE: dict[Presence, Code] = {
    Presence.PRESENT: codes.SCT.Present,
    Presence.INDETERMINATE: codes.SCT.Indeterminate,
    Presence.ABSENT: codes.SCT.Absent,
}

_PROCEDURES: dict[str, Code] = {
    **dict.fromkeys(("CR", "DX", "RG", "RF", "IO", "PX"), codes.LN.XRUnspecifiedBodyRegion),
    "MG": codes.SCT.Mammography,
    "CT": codes.LN.CTUnspecifiedBodyRegion,
    "MR": codes.LN.MRIUnspecifiedBodyRegion,
    "NM": codes.LN.NMUnspecifiedBodyRegion,
    "PT": codes.LN.PETUnspecifiedBodyRegion,
    "US": codes.SCT.Ultrasonography,
    "XA": codes.SCT.Angiography,
}
"""Procedure Reported by Modality (0008,0060), from CID 100 if it has one; the codes there name no body part."""


def procedure_reported(modality: str) -> Code:
    """Code of the imaging procedure for a modality (121058, DCM; PS3.16 CID 100)."""
    procedure: Code = _PROCEDURES.get(modality, codes.SCT.ImagingProcedure)
    return procedure


_RIBS = {
    "48535007": "First rib",
    "78247007": "Second rib",
    "25888004": "Third rib",
    "25523003": "Fourth rib",
    "15339008": "Fifth rib",
    "59558009": "Sixth rib",
    "24915002": "Seventh rib",
    "5953002": "Eighth rib",
    "22565002": "Ninth rib",
    "77644006": "Tenth rib",
    "58830002": "Eleventh rib",
    "43993008": "Twelfth rib",
}
"""SNOMED CT codes of the ribs, which the dictionaries lack, from 3D Slicer's terminology for TotalSegmentator."""


def _read_dictionary() -> dict[tuple[str, str], Code]:
    known = {("SCT", value): Code(value, "SCT", meaning) for value, meaning in _RIBS.items()}
    for scheme in VERIFIABLE_SCHEMES:
        for code in getattr(codes, scheme).concepts.values():
            key = (scheme, code.value)
            if key not in known or len(code.meaning) < len(known[key].meaning):
                known[key] = Code(code.value, scheme, plain(code.meaning, LONG_STRING))
    return known


_DICTIONARY = _read_dictionary()
"""Every verifiable code by designator and value, with its shortest meaning."""


def verified(code: findings.Code | None) -> Code | None:
    """A code with its meaning from the dictionaries, None if they do not have it."""
    return None if code is None else _DICTIONARY.get((code.scheme, code.value))


def finding_code(label: Label) -> Code:
    """Code of a label's finding: its own if that is verified, else one of the private scheme."""
    return verified(label.finding) or private_code(label.name)


def private_code(name: str) -> Code:
    """Code of the private scheme for a name: its letters and digits; if too long, cut and ended by a digest."""
    value = re.sub(r"[^A-Z0-9]+", "-", name.upper()).strip("-")
    if not 0 < len(value) <= CODE_VALUE_LENGTH:
        digest = hashlib.sha256(name.encode()).hexdigest()[:6].upper()
        value = f"{value[: CODE_VALUE_LENGTH - 7]}-{digest}".lstrip("-")
    return Code(value, PRIVATE_SCHEME, plain(name, LONG_STRING) or value)


def private_scheme_identification() -> bytes:
    """Encoded item of Coding Scheme Identification Sequence (0008,0110) that declares the private scheme."""
    return item(
        text_element("CodingSchemeDesignator", PRIVATE_SCHEME),
        text_element("CodingSchemeName", "overread private codes"),
        text_element("CodingSchemeResponsibleOrganization", "overread"),
    )
