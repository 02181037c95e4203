"""Jobs and studies as the JSON objects that commands print. Their keys are a public contract."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from db.database import Database
from db.index import Index
from db.outbox import Outbox
from db.queue import Queue
from db.records import HistoryEntry, Instance, Job
from db.results import Results


def iso(moment: datetime | None) -> str | None:
    """A UTC time in ISO 8601 with the suffix Z."""
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")


class Views:
    """Reads jobs and studies from the database as JSON objects."""

    def __init__(self, database: Database) -> None:
        self.index = Index(database)
        self.queue = Queue(database)
        self.outbox = Outbox(database)
        self.results = Results(database)

    def job(self, job: Job) -> dict[str, Any]:
        """One job as ``queue --json`` prints it."""
        return {
            "id": job.id,
            "study_instance_uid": job.study_instance_uid,
            "series_instance_uid": job.series_instance_uid,
            "engine": job.engine,
            "model_version": job.model_version,
            "state": str(job.state),
            "priority": job.priority,
            "attempts": job.attempts,
            "reason": job.reason,
            "created_at": iso(job.created_at),
            "updated_at": iso(job.updated_at),
            "deliveries": [
                {
                    "destination": delivery.destination,
                    "state": str(delivery.state),
                    "attempts": delivery.attempts,
                    "last_status": delivery.last_status,
                }
                for delivery in self.outbox.of_job(job.id)
            ],
        }

    def job_in_full(self, job: Job) -> dict[str, Any]:
        """One job with its inputs, results, summary and history, as ``show --json`` prints it."""
        return {
            **self.job(job),
            "revision": job.revision,
            "route": job.route,
            "review_advised": job.review_advised,
            "predecessor": job.predecessor_id,
            "started_at": iso(job.started_at),
            "finished_at": iso(job.finished_at),
            "deliveries": [
                {
                    "destination": delivery.destination,
                    "state": str(delivery.state),
                    "attempts": delivery.attempts,
                    "last_status": delivery.last_status,
                    "reason": delivery.reason,
                }
                for delivery in self.outbox.of_job(job.id)
            ],
            "inputs": list(job.inputs),
            "summary": job.summary,
            "results": [
                {
                    "kind": str(result.kind),
                    "sop_instance_uid": result.sop_instance_uid,
                    "series_instance_uid": result.series_instance_uid,
                    "file": result.path,
                }
                for result in self.results.of_job(job.id)
            ],
            "history": [_change(entry) for entry in self.queue.history(job.id)],
            "delivery_history": [
                {"destination": destination, **_change(entry)}
                for destination, entry in self.outbox.history(job.id)
            ],
        }

    def study(self, study_instance_uid: str, series_instance_uid: str | None = None) -> dict[str, Any] | None:
        """One study, or one of its series, with its jobs and its history; None where there is none."""
        study = self.index.study(study_instance_uid)
        if study is None:
            return None
        instances = self.index.instances(study_instance_uid, series_instance_uid)
        jobs = [
            job
            for job in self.queue.jobs(study_instance_uid=study_instance_uid, limit=1000)
            if series_instance_uid in (None, job.series_instance_uid)
        ]
        return {
            "study_instance_uid": study_instance_uid,
            "state": str(study.state),
            "revision": study.revision,
            "last_instance_at": iso(study.last_instance_at),
            "series": _series(instances),
            "jobs": [self.job_in_full(job) for job in jobs],
            "quarantined": [
                {
                    "sop_instance_uid": entry.sop_instance_uid,
                    "reason": entry.reason,
                    "file": entry.path,
                    "at": iso(entry.at),
                }
                for entry in self.index.quarantined(study_instance_uid)
            ],
            "history": [_change(entry) for entry in self.index.history(study_instance_uid)],
        }


def _change(entry: HistoryEntry) -> dict[str, Any]:
    """One change of state as a JSON object."""
    return {
        "at": iso(entry.at),
        "who": entry.who,
        "from": entry.from_state,
        "to": entry.to_state,
        "why": entry.why,
    }


def _series(instances: list[Instance]) -> list[dict[str, Any]]:
    series: dict[str, dict[str, Any]] = {}
    for instance in instances:
        entry = series.setdefault(
            instance.series_instance_uid,
            {
                "series_instance_uid": instance.series_instance_uid,
                "modality": instance.attributes.get("Modality"),
                "description": instance.attributes.get("SeriesDescription"),
                "instances": [],
            },
        )
        entry["instances"].append(
            {
                "sop_instance_uid": instance.sop_instance_uid,
                "sop_class_uid": instance.sop_class_uid,
                "transfer_syntax_uid": instance.transfer_syntax_uid,
                "file": instance.path,
                "size": instance.size,
                "sha256": instance.sha256,
                "received_at": iso(instance.received_at),
                "calling_ae": instance.calling_ae,
            }
        )
    return list(series.values())
