"""What a request for an association is answered with, as far as the request and the settings decide it.

Who may associate is the matter of ``access``; whether there is room for one more, that of ``places``.

References: PS3.8 sections 7.1.1 (A-ASSOCIATE) and 9.3.3 (results of contexts), PS3.7 section D.3.3.4 (roles).
"""

from __future__ import annotations

from handlers.acceptor.access import refuse_access
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
"""Results of presentation contexts (PS3.8 table 9-18)."""
WITHOUT_PIXELS = QUERY_RETRIEVE | {VERIFICATION, STORAGE_COMMITMENT}
"""SOP classes whose datasets we read and write ourselves."""


def decide(request: AssociateRequest, address: str, settings: ReceiverSettings) -> Acceptance | Rejection:
    """The answer to a request that came from an address."""
    if request.application_context.encode() != APPLICATION_CONTEXT:
        return CONTEXT_NOT_SUPPORTED
    refused = refuse_access(settings, request.calling_ae, request.called_ae, address)
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
    """The answer to one presentation context: of the transfer syntaxes that we take, the one proposed first."""
    taken = taken_transfer_syntaxes(proposed.abstract_syntax, settings.private_sop_classes)
    chosen = next((syntax for syntax in proposed.transfer_syntaxes if syntax in taken), None)
    if not taken:
        result = ABSTRACT_SYNTAX_NOT_SUPPORTED
    else:
        result = TRANSFER_SYNTAXES_NOT_SUPPORTED if chosen is None else ACCEPTED
    # Of a refused context the transfer syntax means nothing, but has to be there.
    return AnsweredContext(
        identifier=proposed.identifier, result=result, transfer_syntax=chosen or IMPLICIT_LITTLE
    )


def taken_transfer_syntaxes(abstract_syntax: str, private_sop_classes: tuple[str, ...]) -> frozenset[str]:
    """The transfer syntaxes in which we take a SOP class; none: we do not take it."""
    if abstract_syntax in storage_sop_classes() or abstract_syntax in private_sop_classes:
        return transfer_syntaxes()
    if abstract_syntax in WITHOUT_PIXELS:
        return frozenset(NATIVE)
    return frozenset()
