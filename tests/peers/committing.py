"""A PACS that keeps what it is sent, and commits to it when and how a test says."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from types import TracebackType

from pydicom import Dataset
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.presentation import build_role

from db.records import Reference
from handlers.dimse.commitment import Report, read_request, write_report
from handlers.dimse.uids import STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
from tests.peers.scripted import instance_of
from tests.peers.waiting import free_port


class CommittingPacs:
    """``over_the_same``: reports go over the association of the request; otherwise when ``report`` is called."""

    def __init__(self, ae_title: str = "PACS", *, over_the_same: bool = False) -> None:
        self.ae_title = ae_title
        self.port = free_port()
        self.over_the_same = over_the_same
        self.stored: list[str] = []
        """SOP Instance UIDs in the order they came, repeated ones too."""
        self.requests: list[tuple[str, tuple[Reference, ...]]] = []
        self.reports: list[Dataset] = []
        """What we were told after we had asked ourselves."""
        self._entity = AE(ae_title=ae_title)
        self._entity.supported_contexts = AllStoragePresentationContexts
        self._entity.add_supported_context(STORAGE_COMMITMENT, scu_role=True, scp_role=True)

    def __enter__(self) -> CommittingPacs:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Listen."""
        self._server = self._entity.start_server(
            ("127.0.0.1", self.port),
            block=False,
            evt_handlers=[
                (evt.EVT_C_STORE, self._store),
                (evt.EVT_N_ACTION, self._asked),
                (evt.EVT_N_EVENT_REPORT, self._told),
            ],
        )

    def stop(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.shutdown()

    def report(
        self,
        port: int,
        transaction_uid: str,
        committed: Sequence[Reference],
        failed: Mapping[Reference, int] | None = None,
    ) -> int:
        """Report to the node on that port over an association of our own; its status."""
        association = self._associate(port, scp=True)
        try:
            content = Report(transaction_uid=transaction_uid, committed=tuple(committed), failed=failed or {})
            kind, dataset = write_report(content, self.ae_title)
            response, _ = association.send_n_event_report(
                dataset, kind, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
            )
            return int(response.Status)
        finally:
            association.release()

    def ask(self, port: int, dataset: Dataset) -> int:
        """Ask the node on that port to commit; its status."""
        association = self._associate(port, scp=False)
        try:
            response, _ = association.send_n_action(
                dataset, 1, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
            )
            return int(response.Status)
        finally:
            association.release()

    def _associate(self, port: int, *, scp: bool) -> Association:
        entity = AE(ae_title=self.ae_title)
        entity.add_requested_context(STORAGE_COMMITMENT)
        association = entity.associate(
            "127.0.0.1",
            port,
            ae_title="OVERREAD",
            ext_neg=[build_role(STORAGE_COMMITMENT, scp_role=True)] if scp else [],
        )
        assert association.is_established
        return association

    def _store(self, event: Event) -> int:
        self.stored.append(instance_of(event))
        return 0x0000

    def _asked(self, event: Event) -> tuple[int, Dataset | None]:
        transaction, references = read_request(event.action_information)
        self.requests.append((transaction, references))
        if self.over_the_same:
            # Where the node has released the association meanwhile, the report is lost, and it asks again.
            content = Report(transaction_uid=transaction, committed=references, failed={})
            kind, dataset = write_report(content, self.ae_title)
            threading.Thread(
                target=event.assoc.send_n_event_report,
                args=(dataset, kind, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE),
                daemon=True,
            ).start()
        return 0x0000, None

    def _told(self, event: Event) -> tuple[int, Dataset | None]:
        self.reports.append(event.event_information)
        return 0x0000, None
