"""A PACS on pynetdicom that answers as a test says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import Event, EventHandlerType

TITLE = "SCRIPTED"


@dataclass(frozen=True)
class ScriptedPacs:
    """A running one: where it listens, the SOP Instance UIDs of what came, in that order, and its associations."""

    port: int
    received: list[str] = field(default_factory=list)
    accepted: list[Association] = field(default_factory=list)
    released: list[Association] = field(default_factory=list)


def in_turn(*statuses: int) -> Callable[[Event], int]:
    """Answers with these statuses one after the other, with the last one for ever."""
    left = list(statuses)
    lock = threading.Lock()

    def answer(_: Event) -> int:
        with lock:
            return left.pop(0) if len(left) > 1 else left[0]

    return answer


def instance_of(event: Event) -> str:
    """SOP Instance UID of the request."""
    request = event.request
    assert isinstance(request, C_STORE)
    return str(request.AffectedSOPInstanceUID)


@contextmanager
def scripted_pacs(
    answer: Callable[[Event], int],
    *,
    sop_classes: Sequence[str] | None = None,
    transfer_syntaxes: Sequence[str] | None = None,
    require_calling_aet: Sequence[str] = (),
    maximum_associations: int = 10,
) -> Iterator[ScriptedPacs]:
    """A PACS that asks ``answer`` for the status of each C-STORE; it takes everything unless told what to take."""
    entity = AE(ae_title=TITLE)
    entity.require_calling_aet = list(require_calling_aet)
    entity.maximum_associations = maximum_associations
    for sop_class in sop_classes or [str(c.abstract_syntax) for c in AllStoragePresentationContexts]:
        if transfer_syntaxes is None:
            entity.add_supported_context(sop_class)
        else:
            entity.add_supported_context(sop_class, list(transfer_syntaxes))
    received: list[str] = []
    accepted: list[Association] = []
    released: list[Association] = []

    def store(event: Event) -> int:
        received.append(instance_of(event))
        return answer(event)

    handlers: list[EventHandlerType] = [
        (evt.EVT_C_STORE, store),
        (evt.EVT_ACCEPTED, lambda event: accepted.append(event.assoc)),
        (evt.EVT_RELEASED, lambda event: released.append(event.assoc)),
    ]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    assert server is not None
    try:
        yield ScriptedPacs(server.server_address[1], received, accepted, released)
    finally:
        server.shutdown()
