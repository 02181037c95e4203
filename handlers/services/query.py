"""The query service: C-FIND over the node's results, Patient Root and Study Root.

Queries may be relational: keys of a level above are matched where they are given and not required.

References: PS3.4 sections C.4.1 (C-FIND), C.2.2.2 (matching); statuses in table C.4-1.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice

from pydicom.datadict import dictionary_VR

from db.database import Database
from db.errors import DatabaseError
from db.records import Result
from db.results import Results
from handlers.audit.trail import AskedQuery, AuditTrail
from handlers.dimse.commands import C_FIND_RSP, WITH_DATASET, Command
from handlers.dimse.identifiers import (
    COUNTS,
    LEVEL_KEYS,
    LEVELS,
    UNIQUE_KEYS,
    Identifier,
    IdentifierError,
    read_identifier,
    write_identifier,
)
from handlers.services.matching import is_wildcard, matches, range_of
from handlers.upper_layer.association import Association, Message

log = logging.getLogger("overread.query")

SUCCESS = 0x0000
PENDING = 0xFF00
CANCELLED = 0xFE00
OUT_OF_RESOURCES = 0xA700
IDENTIFIER_DOES_NOT_MATCH = 0xA900


GATHERED = {*COUNTS, "ModalitiesInStudy", "SOPClassesInStudy"}
"""Keys whose values come from all results of an entity."""
MOST_RESULTS = 20_000
"""So many results may match a query: they are in memory at once."""


class TooManyResults(Exception):
    """A query is so wide that its answer would take the receiver's memory."""


@dataclass(kw_only=True)
class Entity:
    """A patient, study, series or instance: its attributes and the results that it consists of."""

    attributes: Mapping[str, str | list[str] | None]
    results: list[Result] = field(default_factory=list)

    def values(self, keyword: str) -> list[str]:
        """The values of a key of any level, counts and sums included."""
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


class Query:
    """Answers C-FIND requests. Thread-safe."""

    def __init__(self, database: Database, ae_title: str, audit: AuditTrail) -> None:
        self.results = Results(database)
        self.ae_title = ae_title
        self.audit = audit

    def __call__(self, association: Association, message: Message) -> None:
        """Answer one C-FIND-RQ: a pending response for each match, then the last one."""
        context, message_id = message.context, message.command.message_id or 0
        status, comment = SUCCESS, None
        try:
            data = association.read_dataset()
            identifier = read_identifier(data, context.transfer_syntax, context.abstract_syntax)
            query = AskedQuery(
                sop_class_uid=context.abstract_syntax,
                transfer_syntax_uid=context.transfer_syntax,
                keywords=[identifier.level, *identifier.keys],
                dataset=data,
            )
            self.audit.queried(association, query)
            for answer in self.answers(identifier):
                if association.cancelled(message_id):
                    status = CANCELLED
                    break
                association.send(
                    context.identifier,
                    Command(
                        command_field=C_FIND_RSP,
                        message_id_responded_to=message_id,
                        affected_sop_class_uid=context.abstract_syntax,
                        dataset_type=WITH_DATASET,
                        status=PENDING,
                    ),
                    write_identifier(answer, context.transfer_syntax),
                )
        except IdentifierError as error:
            status, comment = IDENTIFIER_DOES_NOT_MATCH, str(error)[:64]
        except TooManyResults:
            status, comment = OUT_OF_RESOURCES, f"over {MOST_RESULTS} objects match: narrow the query"
        except DatabaseError as error:
            log.error("query_failed association=%s error=%s", association.identifier, error)
            status, comment = OUT_OF_RESOURCES, "the database does not answer"
        association.send(
            context.identifier,
            Command(
                command_field=C_FIND_RSP,
                message_id_responded_to=message_id,
                affected_sop_class_uid=context.abstract_syntax,
                status=status,
                error_comment=comment,
            ),
        )

    def answers(self, identifier: Identifier) -> Iterator[dict[str, str | list[str]]]:
        """The identifiers to answer with, one for each entity of the level that matches.

        Raises:
            TooManyResults: more match than are answered for.
        """
        asked = [
            keyword
            for level in LEVELS[: LEVELS.index(identifier.level) + 1]
            for keyword in LEVEL_KEYS[level]
            if keyword in identifier.keys
        ]
        single = [keyword for keyword in asked if keyword not in GATHERED]
        gathered = [keyword for keyword in asked if keyword in GATHERED]
        with closing(candidates(self.results, identifier)) as stored:
            matching = (
                result
                for result in stored
                if all(
                    _matches(k, identifier, Entity(attributes=result.attributes).values(k)) for k in single
                )
            )
            found = list(islice(matching, MOST_RESULTS + 1))
        if len(found) > MOST_RESULTS:
            raise TooManyResults
        for entity in entities(found, identifier.level):
            values = {keyword: entity.values(keyword) for keyword in asked}
            if all(_matches(keyword, identifier, values[keyword]) for keyword in gathered):
                yield {"QueryRetrieveLevel": identifier.level, "RetrieveAETitle": self.ae_title, **values}


def candidates(results: Results, identifier: Identifier) -> Generator[Result, None, None]:
    """The results that the keys which the database knows let through."""
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


def entities(found: Iterable[Result], level: str) -> list[Entity]:
    """Results grouped into the entities of a level, in the order of their first results."""
    grouped: dict[str, Entity] = {}
    for result in found:
        value = result.attributes.get(UNIQUE_KEYS[level])
        key = value if isinstance(value, str) else ""
        grouped.setdefault(key, Entity(attributes=result.attributes)).results.append(result)
    return list(grouped.values())


def _matches(keyword: str, identifier: Identifier, values: list[str]) -> bool:
    # Counts are return keys only (PS3.4 section C.3.4).
    return keyword in COUNTS or matches(dictionary_VR(keyword), identifier.keys[keyword], values)
