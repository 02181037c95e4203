"""What overread needs at run time may be distributed beside a program under the Apache License."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement

PROJECT = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text())["project"]
COPYLEFT = re.compile(r"(?<!L)(?<!Lesser )(A?GPL|(Affero )?General Public License)", re.IGNORECASE)


def installed(requirements: list[str]) -> set[str]:
    """The distributions that requirements bring along, those of requirements included."""
    found: set[tuple[str, str]] = set()
    asked = [(Requirement(text), "") for text in requirements]
    while asked:
        requirement, extra = asked.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        for wanted in {"", *requirement.extras} - {extra for known, extra in found if known == name}:
            found.add((name, wanted))
            asked += [(Requirement(text), wanted) for text in distribution(name).requires or []]
    return {name for name, _ in found}


def test_no_dependency_is_under_the_gpl() -> None:
    names = installed(PROJECT["dependencies"])
    assert {"pydicom", "torch", "psycopg-binary"} <= names
    licences = {}
    for name in sorted(names):
        metadata = distribution(name).metadata
        expression, text = (metadata.get_all(field, []) for field in ("License-Expression", "License"))
        said = [*expression[:1], *(licence[:100] for licence in text[:1])]
        said += [line for line in metadata.get_all("Classifier") or [] if line.startswith("License")]
        licences[name] = " ".join(said)
    assert [name for name, licence in licences.items() if COPYLEFT.search(licence)] == []
