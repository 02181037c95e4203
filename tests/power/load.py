"""A load of small objects over several associations, and which of them an acknowledgement speaks of."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.dsutils import encode

from handlers.dimse.commands import C_STORE_RSP, decode_command
from tests.peers.waiting import free_port
from tests.power.trace import Said


@dataclass(frozen=True, kw_only=True)
class Sent:
    """One object as it goes over the network."""

    uid: str
    data: bytes
    dataset: Dataset


def make_object(number: int, content: int = 0, size: int = 2000) -> Sent:
    """An object of the study that its number belongs to; with another ``content`` it conflicts."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = CTImageStorage
    dataset.StudyInstanceUID = f"1.2.3.{number % 5 + 1}"
    dataset.SeriesInstanceUID = f"{dataset.StudyInstanceUID}.1"
    dataset.SOPInstanceUID = f"{dataset.SeriesInstanceUID}.{number + 1}"
    dataset.Modality, dataset.PatientID, dataset.PatientName = "CT", "CANARY", f"Canary^{content}"
    dataset.BitsAllocated = 8
    dataset.PixelData = bytes((number * 7 + content * 3 + i * i) % 251 for i in range(size))
    data = encode(dataset, False, True)
    assert data is not None
    return Sent(uid=str(dataset.SOPInstanceUID), data=data, dataset=dataset)


@dataclass(eq=False)
class Association:
    """Objects that go over one association, one after the other."""

    objects: Sequence[Sent]
    local_port: int = field(default_factory=free_port)
    answers: bytearray = field(default_factory=bytearray)
    acknowledged: int = 0

    def send(self, port: int) -> None:
        entity = AE(ae_title="MODALITY")
        entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
        association = entity.associate(
            "127.0.0.1", port, ae_title="OVERREAD", bind_address=("127.0.0.1", self.local_port)
        )
        assert association.is_established
        for number, item in enumerate(self.objects, 1):
            status = association.send_c_store(item.dataset, msg_id=number)
            assert status.Status == 0x0000, status
        association.release()

    def heard(self, data: bytes) -> list[Sent]:
        """The objects that these bytes from the node acknowledge."""
        self.answers += data
        found = []
        while len(self.answers) >= 6:
            length = 6 + int.from_bytes(self.answers[2:6], "big")
            if len(self.answers) < length:
                break
            unit = bytes(self.answers[:length])
            del self.answers[:length]
            if unit[0] != 4:  # P-DATA-TF
                continue
            command = decode_command(unit[12:])
            assert (command.command_field, command.status) == (C_STORE_RSP, 0x0000)
            item = self.objects[self.acknowledged]
            self.acknowledged += 1
            assert command.message_id_responded_to == self.acknowledged
            assert command.affected_sop_instance_uid == item.uid
            found.append(item)
        return found


class Load:
    """What several peers send at once, in rounds."""

    def __init__(self, rounds: Sequence[Sequence[Sequence[Sent]]]) -> None:
        self.rounds = [[Association(objects) for objects in each] for each in rounds]
        self._by_port = {peer.local_port: peer for each in self.rounds for peer in each}

    def send(self, port: int) -> None:
        """Send everything; fails unless everything is acknowledged."""
        failures: list[BaseException] = []

        def run(peer: Association) -> None:
            try:
                peer.send(port)
            except BaseException as error:
                failures.append(error)

        for peers in self.rounds:
            threads = [threading.Thread(target=run, args=(peer,)) for peer in peers]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(120)
        assert not failures, failures

    def acknowledged_by(self, said: Said) -> list[Sent]:
        """The objects that the node acknowledges with these bytes."""
        peer = self._by_port.get(said.port)
        return [] if peer is None else peer.heard(said.data)

    @property
    def count(self) -> int:
        """How many objects are sent altogether."""
        return sum(len(peer.objects) for each in self.rounds for peer in each)


def mixed_load(*, associations: int = 3, each: int = 8) -> Load:
    """New objects over several associations at once; then some again, some with other contents, some new."""
    groups = [
        [make_object(each * group + i, size=_size(i)) for i in range(each)] for group in range(associations)
    ]
    rivals = [[make_object(900, content=group)] for group in range(associations)]
    again = [[group[0], make_object(each * n + 1, content=1), make_object(each * n + 1, content=2),
              group[3], make_object(500 + n)] for n, group in enumerate(groups)]  # fmt: skip
    return Load([[g + r for g, r in zip(groups, rivals, strict=True)], again])


def _size(number: int) -> int:
    return 30_000 if number == 2 else 700 + number * 200
