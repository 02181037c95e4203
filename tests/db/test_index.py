"""What was received: verdicts, studies that are complete or not, quarantine."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from db.database import Database
from db.index import Index
from db.records import StoreVerdict
from tests.db.conftest import new_instance


def test_first_is_stored_same_bytes_are_a_duplicate_other_bytes_a_conflict(database: Database) -> None:
    index = Index(database)
    first = new_instance()
    other = new_instance(sop_instance_uid=first.sop_instance_uid)
    assert index.record([first]) == [StoreVerdict.STORED]
    assert index.record([first, other]) == [StoreVerdict.DUPLICATE, StoreVerdict.CONFLICT]
    (entry,) = index.quarantined("1.1")
    assert (entry.path, entry.sop_instance_uid) == (other.path, first.sop_instance_uid)
    found = index.find_instance(first.sop_instance_uid)
    assert found is not None
    assert found.sha256 == first.sha256
    assert index.known_paths() == {first.path, other.path}


def test_one_batch_may_hold_the_same_uid_twice(database: Database) -> None:
    first = new_instance()
    other = new_instance(sop_instance_uid=first.sop_instance_uid)
    assert Index(database).record([first, first, other]) == [
        StoreVerdict.STORED,
        StoreVerdict.DUPLICATE,
        StoreVerdict.CONFLICT,
    ]


def test_conflicts_do_not_touch_the_study(database: Database) -> None:
    index = Index(database)
    first = new_instance()
    index.record([first])
    before = index.receiving()
    index.record([new_instance(sop_instance_uid=first.sop_instance_uid)])
    assert index.receiving() == before


def test_release_counts_only_for_the_association_of_the_last_instance(database: Database) -> None:
    index = Index(database)
    index.record([new_instance(association="a1")])
    index.record([new_instance(association="a2")])
    index.association_released("a1")
    assert not index.receiving()[0].released
    index.association_released("a2")
    assert index.receiving()[0].released
    index.record([new_instance(association="a3")])
    assert not index.receiving()[0].released


def test_progress_gathers_modalities_and_the_expected_number(database: Database) -> None:
    index = Index(database)
    index.record([new_instance(attributes={"Modality": "CR"})])
    index.record([new_instance(attributes={"Modality": "DX", "NumberOfStudyRelatedInstances": "3"})])
    (progress,) = index.receiving()
    assert progress.modalities == ("CR", "DX")
    assert progress.expected_instances == 3
    assert progress.instance_count == 2


def test_attributes_come_back_as_they_were(database: Database) -> None:
    attributes = {"PatientName": "山田^太郎", "ImageType": ["ORIGINAL", "PRIMARY"], "StudyID": None}
    item = new_instance(attributes=attributes)
    index = Index(database)
    index.record([item])
    (stored,) = index.instances("1.1")
    assert stored.attributes == attributes
    assert stored.received_at == item.received_at


def test_receivers_that_record_the_same_things_at_once_agree(database: Database) -> None:
    """Each of several threads records the same instances of the same new studies."""
    items = [new_instance(f"7.{n % 5}", f"7.{n % 5}.1") for n in range(40)]
    index = Index(database)

    def record(order: int) -> list[StoreVerdict]:
        mine = items if order % 2 else list(reversed(items))
        return [verdict for item in mine for verdict in index.record([item])]

    with ThreadPoolExecutor(4) as pool:
        verdicts = [v for found in pool.map(record, range(4)) for v in found]
    assert verdicts.count(StoreVerdict.STORED) == len(items)
    assert verdicts.count(StoreVerdict.DUPLICATE) == 3 * len(items)
    studies = [index.study(f"7.{n}") for n in range(5)]
    assert sum(study.instance_count for study in studies if study) == len(items)


def test_batches_of_several_receivers_do_not_block_each_other_for_ever(database: Database) -> None:
    batches = [[new_instance(f"8.{(n + k) % 4}", f"8.{(n + k) % 4}.1") for k in range(4)] for n in range(24)]
    index = Index(database)
    with ThreadPoolExecutor(4) as pool:
        verdicts = [v for found in pool.map(index.record, batches) for v in found]
    assert verdicts == [StoreVerdict.STORED] * 96
