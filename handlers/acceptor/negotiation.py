"""The answer to an association request, computed from the request and the settings alone.

``access`` says which peers may associate; ``capacity`` says whether there is room for another association.

References: PS3.8 sections 7.1.1 (A-ASSOCIATE) and 9.3.3 (A-ASSOCIATE-AC), PS3.7 section D.3.3.4 (role selection).
"""

from __future__ import annotations

from handlers.acceptor.access import access_refusal
from handlers.dimse.uids import (
    QUERY_RETRIEVE,
    STORAGE_COMMITMENT,
    VERIFICATION,
    storage_sop_classes,
    transfer_syntaxes,
)
from handlers.encoding.uids import IMPLICIT_LITTLE, NATIVE
from handlers.settings import ReceiverSettings
from handlers.upper_layer.association import Acceptance, PresentationContext
from handlers.upper_layer.pdu import APPLICATION_CONTEXT, AnsweredContext, AssociateRequest, ProposedContext
from handlers.upper_layer.rejections import CONTEXT_NOT_SUPPORTED, Rejection

ACCEPTED = 0
ABSTRACT_SYNTAX_NOT_SUPPORTED = 3
TRANSFER_SYNTAXES_NOT_SUPPORTED = 4
"""Results of a presentation context (PS3.8 table 9-18)."""
WITHOUT_PIXELS = QUERY_RETRIEVE | {VERIFICATION, STORAGE_COMMITMENT}
"""SOP classes without pixel data; we accept them in native little endian transfer syntaxes only."""


def answer_request(
    request: AssociateRequest, address: str, settings: ReceiverSettings
) -> Acceptance | Rejection:
    """The answer to a request from the IP address ``address``: accepted contexts, or a rejection."""
    if request.application_context.encode() != APPLICATION_CONTEXT:
        return CONTEXT_NOT_SUPPORTED
    refused = access_refusal(settings, request.calling_ae, request.called_ae, address)
    if refused is not None:
        return refused
    peer_is_scp = {role.sop_class_uid: role.scp for role in request.roles}
    answered = [(proposed, answer_context(proposed, settings)) for proposed in request.contexts]
    return Acceptance(
        answers=[answer for _, answer in answered],
        contexts={
            proposed.identifier: PresentationContext(
                identifier=proposed.identifier,
                abstract_syntax=proposed.abstract_syntax,
                transfer_syntax=answer.transfer_syntax,
                peer_is_scp=peer_is_scp.get(proposed.abstract_syntax, False),
            )
            for proposed, answer in answered
            if answer.result == ACCEPTED
        },
    )


def answer_context(proposed: ProposedContext, settings: ReceiverSettings) -> AnsweredContext:
    """The answer to one presentation context; of the transfer syntaxes that we accept, the first proposed wins."""
    accepted = accepted_transfer_syntaxes(proposed.abstract_syntax, settings.private_sop_classes)
    chosen = next((syntax for syntax in proposed.transfer_syntaxes if syntax in accepted), None)
    if not accepted:
        result = ABSTRACT_SYNTAX_NOT_SUPPORTED
    else:
        result = TRANSFER_SYNTAXES_NOT_SUPPORTED if chosen is None else ACCEPTED
    # A refused context must have a transfer syntax too, which means nothing.
    return AnsweredContext(
        identifier=proposed.identifier, result=result, transfer_syntax=chosen or IMPLICIT_LITTLE
    )


def accepted_transfer_syntaxes(abstract_syntax: str, private_sop_classes: tuple[str, ...]) -> frozenset[str]:
    """The transfer syntaxes in which we accept a SOP class; empty if we do not accept it at all."""
    if abstract_syntax in storage_sop_classes() or abstract_syntax in private_sop_classes:
        return transfer_syntaxes()
    if abstract_syntax in WITHOUT_PIXELS:
        return frozenset(NATIVE)
    return frozenset()
