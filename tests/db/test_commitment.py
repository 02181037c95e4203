"""Storage commitment in the database: requests, reports, what becomes due again and what is owed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import select, update

from db.commitment import MAXIMUM_ATTEMPTS, Commitments, OwedReports
from db.database import Database, now, time_text
from db.outbox import Outbox
from db.records import CommitmentRequest, Reference, Sent
from db.retention import Retention
from db.tables import commitment_reports, deliveries
from tests.db.test_outbox import deliver

NO_SUCH_INSTANCE = 0x0112
SOP_CLASS_NOT_SUPPORTED = 0x0122
IMAGES = (Reference(sop_class_uid="1.2.840.10008.5.1.4.1.1.2", sop_instance_uid="1.2.3"),)


def sent(database: Database, objects: int = 2) -> int:
    """A job whose results were sent; its number."""
    job = deliver(database, objects=objects)
    outbox = Outbox(database)
    for delivery in outbox.claim("pacs", "c", 10, 60):
        outbox.settle([(delivery, Sent(status=0))])
    return job


def asked(database: Database) -> CommitmentRequest:
    """The request that is due."""
    request = Commitments(database).ask("pacs", 100)
    assert request is not None
    return request


def states(database: Database) -> list[str]:
    with database.read() as connection:
        return list(connection.execute(select(deliveries.c.state).order_by(deliveries.c.id)).scalars())


def make_due(database: Database) -> None:
    """As if the time to wait were over."""
    with database.write() as connection:
        past = time_text(now() - timedelta(seconds=1))
        connection.execute(update(deliveries).values(not_before=past))
        connection.execute(update(commitment_reports).values(not_before=past))


def test_results_that_were_sent_are_asked_for_once_and_committed_by_the_report(database: Database) -> None:
    job = sent(database)
    commitments = Commitments(database)
    request = asked(database)
    assert len(request.references) == 2
    assert commitments.ask("pacs", 100) is None
    assert commitments.ask("other", 100) is None
    assert commitments.apply_report(request.transaction_uid, request.references, {})
    assert states(database) == ["committed", "committed"]
    (summary,) = Outbox(database).of_job(job)
    assert (str(summary.state), summary.reason) == ("committed", None)
    assert commitments.apply_report(request.transaction_uid, request.references, {}), (
        "a report twice is harmless"
    )


def test_without_an_answer_the_same_results_are_asked_for_again_under_a_new_transaction(
    database: Database,
) -> None:
    sent(database)
    first = asked(database)
    make_due(database)
    second = asked(database)
    assert second.transaction_uid != first.transaction_uid
    assert second.references == first.references
    late = Commitments(database).apply_report(first.transaction_uid, first.references, {})
    assert late, "a late report still counts"
    assert states(database) == ["committed", "committed"]


def test_what_the_destination_does_not_have_is_sent_again_and_at_last_given_up(database: Database) -> None:
    sent(database, objects=1)
    commitments, outbox = Commitments(database), Outbox(database)
    for attempt in range(1, MAXIMUM_ATTEMPTS + 1):
        request = asked(database)
        (reference,) = request.references
        assert commitments.apply_report(request.transaction_uid, (), {reference: NO_SUCH_INSTANCE})
        if attempt == MAXIMUM_ATTEMPTS:
            break
        assert states(database) == ["pending"]
        assert outbox.claim("pacs", "c", 10, 60) == [], "not at once"
        make_due(database)
        (delivery,) = outbox.claim("pacs", "c", 10, 60)
        outbox.settle([(delivery, Sent(status=0))])
    assert states(database) == ["failed"]


def test_class_that_the_destination_never_commits_to_is_given_up_with_the_reason(database: Database) -> None:
    job = sent(database, objects=2)
    request = asked(database)
    good, bad = request.references
    Commitments(database).apply_report(request.transaction_uid, (good,), {bad: SOP_CLASS_NOT_SUPPORTED})
    assert states(database) == ["committed", "failed"]
    (summary,) = Outbox(database).of_job(job)
    assert summary.reason == "not committed: SOP class not supported (0122)"


def test_report_of_a_strange_transaction_or_instance_changes_nothing(database: Database) -> None:
    sent(database)
    request = asked(database)
    commitments = Commitments(database)
    assert not commitments.apply_report("1.2.3.4", request.references, {})
    assert commitments.destination_of("1.2.3.4") is None
    assert commitments.apply_report(request.transaction_uid, IMAGES, {})
    assert states(database) == ["sent", "sent"]


def test_request_that_did_not_get_through_says_why(database: Database) -> None:
    job = sent(database)
    request = asked(database)
    Commitments(database).request_failed(request, "the peer is away")
    (summary,) = Outbox(database).of_job(job)
    assert summary.reason == "the peer is away"


def test_results_that_wait_for_commitment_are_not_forgotten(database: Database) -> None:
    sent(database)
    later = datetime.now(UTC) + timedelta(days=1)
    retention = Retention(database)
    assert retention.forget_results(later, committing=["pacs"]) == []
    assert len(retention.forget_results(later, committing=["other"])) == 2


def test_owed_report_is_claimed_once_tried_again_and_sent(database: Database) -> None:
    owed = OwedReports(database)
    owed.owe("1.2.9", "ct1", IMAGES)
    owed.owe("1.2.9", "ct1", IMAGES)
    assert owed.claim("ct2", 60) is None
    report = owed.claim("ct1", 60)
    assert report is not None
    assert (report.references, report.attempts) == (IMAGES, 1)
    assert owed.claim("ct1", 60) is None, "it is held, and asked for once"
    owed.postpone(report, now() + timedelta(hours=1), "away")
    assert owed.claim("ct1", 60) is None
    make_due(database)
    again = owed.claim("ct1", 60)
    assert again is not None
    assert again.attempts == 2
    owed.sent(again)
    make_due(database)
    assert owed.claim("ct1", 60) is None


def test_peer_that_asks_again_is_answered_again(database: Database) -> None:
    owed = OwedReports(database)
    for settle in (owed.sent, lambda report: owed.failed(report, "refused")):
        owed.owe("1.2.9", "ct1", IMAGES)
        report = owed.claim("ct1", 60)
        assert report is not None
        assert report.attempts == 1
        settle(report)
        assert owed.claim("ct1", 60) is None


def test_report_whose_sender_died_comes_back(database: Database) -> None:
    owed = OwedReports(database)
    owed.owe("1.2.9", "ct1", IMAGES)
    assert owed.claim("ct1", 0.0) is not None
    assert owed.claim("ct1", 60) is not None
