"""SNOMED CT codes of segmented structures, found by the structure's name in pydicom's dictionary.

A name that is neither in the dictionary nor that of a rib gets no code. A report then uses its private scheme.
"""

from __future__ import annotations

import re
from functools import cache

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as DictionaryCode

from inference.store.card_parts import CardStructure, Code

BRAIN = Code(value="12738006", scheme="SCT", meaning="Brain")
_SIDES = ("left", "right")
_OTHER_NAMES = {
    "adrenalgland": "AdrenalGland",
    "iliacartery": "CommonIliacArtery",
    "iliacvena": "CommonIliacVein",
    "smallbowel": "SmallIntestine",
    "urinarybladder": "Bladder",
    "hip": "Hip",
    "clavicula": "Clavicle",
    "lungupperlobe": "UpperLobeOfLung",
    "lunglowerlobe": "LowerLobeOfLung",
    "lungmiddlelobe": "MiddleLobeOfRightLung",
}
"""Keywords in the dictionary for structures that TotalSegmentator names differently."""
_RIBS = (
    ("First", "48535007"),
    ("Second", "78247007"),
    ("Third", "25888004"),
    ("Fourth", "25523003"),
    ("Fifth", "15339008"),
    ("Sixth", "59558009"),
    ("Seventh", "24915002"),
    ("Eighth", "5953002"),
    ("Ninth", "22565002"),
    ("Tenth", "77644006"),
    ("Eleventh", "58830002"),
    ("Twelfth", "43993008"),
)
"""SNOMED CT codes of the ribs, which pydicom's dictionary lacks; ``sr_writer.codes`` lists them too."""
_ANATOMY = Code(value="91723000", scheme="SCT", meaning="Anatomical Structure")


@cache
def _keywords() -> dict[str, DictionaryCode]:
    return {keyword.lower(): code for keyword, code in codes.SCT.concepts.items()}


def card_structure(value: int, name: str) -> CardStructure:
    """A structure of a segmentation, with a code if there is one for its name; left and right are not in the code."""
    shown = name.replace("_", " ").strip()
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]
    words = ["vertebra" if word == "vertebrae" else word for word in words]
    rest = [word for word in words if word not in _SIDES]
    if rest[:1] == ["rib"] and len(rest) == 2 and rest[1].isdecimal() and 1 <= int(rest[1]) <= len(_RIBS):
        ordinal, value_of_rib = _RIBS[int(rest[1]) - 1]
        rib = Code(value=value_of_rib, scheme="SCT", meaning=f"{ordinal} rib")
        return CardStructure(value=value, name=shown, category=_ANATOMY, type=rib)
    joined = "".join(rest)
    candidates = (joined, "".join(rest[1:] + rest[:1]), _OTHER_NAMES.get(joined, "").lower())
    found = next((_keywords()[c] for c in candidates if c in _keywords()), None)
    return CardStructure(
        value=value,
        name=shown,
        category=_ANATOMY,
        type=None if found is None else Code(value=found.value, scheme="SCT", meaning=found.meaning),
    )
