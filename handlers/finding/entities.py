"""Finding the patients, studies, series and instances among the node's results that match a query.

Relational queries are supported: keys of higher levels are matched if present, but not required.

References: PS3.4 section C.2.2.2 (matching).
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice

from pydicom.datadict import dictionary_VR

from db.records import AttributeValue, Result
from db.results import Results
from handlers.finding.information_model import COUNTS, LEVEL_KEYS, LEVELS, UNIQUE_KEYS, Identifier
from handlers.finding.matching import is_wildcard, matches, range_of

AGGREGATED = {*COUNTS, "ModalitiesInStudy", "SOPClassesInStudy"}
"""Keys whose values are computed from all results of an entity."""
MAXIMUM_RESULTS = 20_000
"""Most results that may match a query, because they are all in memory at once."""


class TooManyResults(Exception):
    """A query matches more results than ``MAXIMUM_RESULTS``."""

    def __init__(self) -> None:
        super().__init__(f"over {MAXIMUM_RESULTS} objects match: narrow the query")


@dataclass(kw_only=True)
class Entity:
    """A patient, study, series or instance: its results, and the attributes of the first of them."""

    attributes: Mapping[str, AttributeValue]
    results: list[Result] = field(default_factory=list)

    def values(self, keyword: str) -> list[str]:
        """The values of a key of any level, computed ones included; empty if there are none."""
        match keyword:
            case "ModalitiesInStudy":
                return sorted({str(r.attributes.get("Modality")) for r in self.results})
            case "SOPClassesInStudy":
                return sorted({r.sop_class_uid for r in self.results})
            case "NumberOfPatientRelatedStudies":
                return [str(len({r.study_instance_uid for r in self.results}))]
            case "NumberOfPatientRelatedSeries" | "NumberOfStudyRelatedSeries":
                return [str(len({r.series_instance_uid for r in self.results}))]
            case _ if keyword in COUNTS:
                return [str(len(self.results))]
        value = self.attributes.get(keyword)
        return [value] if isinstance(value, str) else list(value or ())


def find(results: Results, identifier: Identifier) -> Iterator[dict[str, list[str]]]:
    """For each matching entity of the query's level, the requested keys with their values.

    Raises:
        TooManyResults: more than ``MAXIMUM_RESULTS`` results match.
        DatabaseError: the database does not answer.
    """
    asked = [
        keyword
        for level in _levels_to(identifier.level)
        for keyword in LEVEL_KEYS[level]
        if keyword in identifier.keys
    ]
    single = [keyword for keyword in asked if keyword not in AGGREGATED]
    aggregated = [keyword for keyword in asked if keyword in AGGREGATED]
    with closing(_candidates(results, identifier)) as stored:
        matching = (
            result
            for result in stored
            if all(
                _key_matches(k, identifier, Entity(attributes=result.attributes).values(k)) for k in single
            )
        )
        found = list(islice(matching, MAXIMUM_RESULTS + 1))
    if len(found) > MAXIMUM_RESULTS:
        raise TooManyResults
    for entity in _group_into_entities(found, identifier.level):
        values = {keyword: entity.values(keyword) for keyword in asked}
        if all(_key_matches(keyword, identifier, values[keyword]) for keyword in aggregated):
            yield values


def results_by_uids(results: Results, identifier: Identifier) -> list[Result]:
    """The results with the given unique keys of the query's level and the levels above it.

    Raises:
        DatabaseError: the database does not answer.
    """
    unique = {UNIQUE_KEYS[level] for level in _levels_to(identifier.level)}
    keys = {keyword: value for keyword, value in identifier.keys.items() if keyword in unique}
    return list(_candidates(results, Identifier(level=identifier.level, keys=keys)))


def _levels_to(level: str) -> tuple[str, ...]:
    return LEVELS[: LEVELS.index(level) + 1]


def _candidates(results: Results, identifier: Identifier) -> Generator[Result, None, None]:
    """The results that match those keys by which the database can search."""
    patient, accession = identifier.values("PatientID"), identifier.values("AccessionNumber")
    dates = identifier.values("StudyDate")
    first, last = range_of("DA", dates[0]) if len(dates) == 1 else (None, None)
    return results.find(
        study_instance_uids=identifier.values("StudyInstanceUID"),
        series_instance_uids=identifier.values("SeriesInstanceUID"),
        sop_instance_uids=identifier.values("SOPInstanceUID"),
        patient_id=patient[0] if len(patient) == 1 and not is_wildcard(patient[0]) else None,
        accession_number=accession[0] if len(accession) == 1 and not is_wildcard(accession[0]) else None,
        study_date_from=first,
        study_date_to=last,
    )


def _group_into_entities(found: Iterable[Result], level: str) -> list[Entity]:
    """Group results into the entities of a level, in the order of their first results."""
    grouped: dict[str, Entity] = {}
    for result in found:
        value = result.attributes.get(UNIQUE_KEYS[level])
        key = value if isinstance(value, str) else ""
        grouped.setdefault(key, Entity(attributes=result.attributes)).results.append(result)
    return list(grouped.values())


def _key_matches(keyword: str, identifier: Identifier, values: list[str]) -> bool:
    # Counts are return keys only (PS3.4 section C.3.4).
    return keyword in COUNTS or matches(dictionary_VR(keyword), identifier.keys[keyword], values)
