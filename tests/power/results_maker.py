"""A program to record: makes result files as a worker does and commits them with their rows and deliveries."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pydicom import Dataset

from db.database import Database
from db.index import Index
from db.plans import Plans
from db.queue import Queue
from db.records import Done, PlannedJob
from handlers.spool.stored_files import StoredFiles, UnsyncedFiles
from node.commands.serve import prepare
from node.configuration.loading import load
from node.steps.artifacts import store
from sr_writer.context import WrittenObject
from tests.db.conftest import new_instance
from tests.power.load import make_object

OBJECTS = 3
"""For each job."""


def written(number: int) -> WrittenObject:
    """An object that stands for a result."""
    dataset: Dataset = make_object(number, size=3000).dataset
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return WrittenObject(kind="sr", dataset=dataset)


def main(configuration_file: Path, studies: int) -> None:
    """Take studies through their jobs; say the number of each job once its results are committed."""
    configuration = load(configuration_file)
    prepare(configuration, with_spool=False)
    database = Database.open(configuration.database_settings())
    index, queue, files = Index(database), Queue(database), StoredFiles(configuration.data_dir)
    for number in range(studies):
        study = f"9.{number}"
        # Rows of instances alone: what is looked at here are the results.
        item = new_instance(study, f"{study}.1")
        index.record([item])
        plan = PlannedJob(
            series_instance_uid=f"{study}.1",
            engine="cxr",
            route="all",
            destinations=("pacs", "viewer"),
            priority=0,
            inputs=(item.sop_instance_uid,),
            inputs_digest="d",
            input_bytes=item.size,
            source=item.calling_ae,
            weight=1.0,
            skip_reason=None,
        )
        Plans(database).complete_study(study, 1, [plan])
        (job,) = queue.claim("worker", ["cxr"], 1, 600)
        unsynced = UnsyncedFiles(files)
        results = tuple(store(written(number * OBJECTS + i), job, unsynced) for i in range(OBJECTS))
        files.put_all(unsynced.written)
        queue.settle(job, Done(model_version="1", results=results))
        os.write(1, f"{job.id}\n".encode())  # in one piece
    database.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
