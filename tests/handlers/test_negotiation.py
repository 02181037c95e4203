"""What a request for an association is answered with, decided from values alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from handlers.acceptor.negotiation import answer_request
from handlers.dimse.uids import PATIENT_ROOT_GET, STORAGE_COMMITMENT, VERIFICATION
from handlers.encoding.uids import EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE
from handlers.settings import ReceiverSettings, Source
from handlers.upper_layer.association import Acceptance, PresentationContext
from handlers.upper_layer.pdu import AnsweredContext, AssociateRequest, ProposedContext, RoleSelection
from handlers.upper_layer.rejections import (
    CALLED_NOT_RECOGNIZED,
    CALLING_NOT_RECOGNIZED,
    CONTEXT_NOT_SUPPORTED,
    Rejection,
)

CT = "1.2.840.10008.5.1.4.1.1.2"
JPEG = "1.2.840.10008.1.2.4.50"
PRIVATE = "1.2.3.4"


def settings(**changes: Any) -> ReceiverSettings:
    values: dict[str, Any] = {"ae_title": "OVERREAD", "host": "", "port": 0, "spool": Path("spool")}
    return ReceiverSettings(**values | changes)


def request(
    *contexts: tuple[str, tuple[str, ...]],
    called: str = "OVERREAD",
    application_context: str = "1.2.840.10008.3.1.1.1",
    roles: tuple[RoleSelection, ...] = (),
) -> AssociateRequest:
    return AssociateRequest(
        head=bytes(68),
        called_ae=called,
        calling_ae="CT1",
        application_context=application_context,
        contexts=tuple(
            ProposedContext(identifier=2 * number + 1, abstract_syntax=abstract, transfer_syntaxes=syntaxes)
            for number, (abstract, syntaxes) in enumerate(contexts)
        ),
        maximum_length=16384,
        roles=roles,
    )


def accepted(asked: AssociateRequest, chosen: ReceiverSettings | None = None) -> Acceptance:
    answer = answer_request(asked, "10.0.0.7", chosen or settings())
    assert isinstance(answer, Acceptance)
    return answer


@pytest.mark.parametrize(
    ("abstract", "syntaxes", "result", "chosen"),
    [
        (CT, (JPEG, EXPLICIT_LITTLE), 0, JPEG),
        (CT, (EXPLICIT_BIG, JPEG), 0, EXPLICIT_BIG),
        (CT, ("1.2.3", IMPLICIT_LITTLE), 0, IMPLICIT_LITTLE),
        (CT, ("1.2.3",), 4, IMPLICIT_LITTLE),
        (CT, (), 4, IMPLICIT_LITTLE),
        (VERIFICATION, (EXPLICIT_BIG, EXPLICIT_LITTLE), 0, EXPLICIT_LITTLE),
        (VERIFICATION, (JPEG,), 4, IMPLICIT_LITTLE),
        (STORAGE_COMMITMENT, (IMPLICIT_LITTLE,), 0, IMPLICIT_LITTLE),
        (PRIVATE, (EXPLICIT_LITTLE,), 3, IMPLICIT_LITTLE),
        ("1.2.840.10008.5.1.4.31", (EXPLICIT_LITTLE,), 3, IMPLICIT_LITTLE),
        ("", (), 3, IMPLICIT_LITTLE),
    ],
)
def test_context_is_answered_with_the_first_transfer_syntax_that_we_take(
    abstract: str, syntaxes: tuple[str, ...], result: int, chosen: str
) -> None:
    answer = accepted(request((abstract, syntaxes)))
    assert answer.answers == [AnsweredContext(identifier=1, result=result, transfer_syntax=chosen)]
    assert list(answer.contexts) == ([1] if result == 0 else [])


def test_every_context_is_answered_and_the_accepted_ones_are_kept() -> None:
    answer = accepted(request((CT, (JPEG,)), (PRIVATE, (JPEG,)), (CT, (EXPLICIT_LITTLE,))))
    assert [(a.identifier, a.result) for a in answer.answers] == [(1, 0), (3, 3), (5, 0)]
    assert {identifier: c.transfer_syntax for identifier, c in answer.contexts.items()} == {
        1: JPEG,
        5: EXPLICIT_LITTLE,
    }


def test_private_class_is_taken_where_it_is_configured() -> None:
    answer = accepted(request((PRIVATE, (JPEG,))), settings(private_sop_classes=(PRIVATE,)))
    assert answer.contexts[1].transfer_syntax == JPEG


def test_peer_that_offers_to_be_a_provider_is_known_as_one() -> None:
    role = RoleSelection(sop_class_uid=CT, scu=True, scp=True)
    answer = accepted(request((CT, (JPEG,)), (PATIENT_ROOT_GET, (EXPLICIT_LITTLE,)), roles=(role,)))
    assert answer.contexts[1] == PresentationContext(
        identifier=1, abstract_syntax=CT, transfer_syntax=JPEG, peer_is_scp=True
    )
    assert not answer.contexts[3].peer_is_scp


KNOWN = Source(name="ct", ae_title="CT1", hosts=("10.0.0.0/24",))


@pytest.mark.parametrize(
    ("asked", "chosen", "address", "rejection"),
    [
        (request(application_context="1.2.3"), {}, "10.0.0.7", CONTEXT_NOT_SUPPORTED),
        (request(called="OTHER", application_context="1.2.3"), {}, "10.0.0.7", CONTEXT_NOT_SUPPORTED),
        (request(called="OTHER"), {}, "10.0.0.7", CALLED_NOT_RECOGNIZED),
        (request(), {"allow_unknown": False}, "10.0.0.7", CALLING_NOT_RECOGNIZED),
        (request(), {"allow_unknown": False, "sources": (KNOWN,)}, "10.0.1.7", CALLING_NOT_RECOGNIZED),
        (request(), {"allow_unknown": False, "sources": (KNOWN,)}, "10.0.0.7", None),
        (request(), {"allow_unknown": False, "sources": (KNOWN,)}, "::ffff:10.0.0.7", None),
        (request(), {"sources": (KNOWN,)}, "10.0.1.7", None),
    ],
)
def test_who_may_associate(
    asked: AssociateRequest, chosen: dict[str, object], address: str, rejection: Rejection | None
) -> None:
    answer = answer_request(asked, address, settings(**chosen))
    assert (answer if isinstance(answer, Rejection) else None) == rejection
