"""What the node makes of the shared test images is what it made of them when this was recorded.

``RECORD=1 python -m pytest tests/recorded`` records anew; the difference then shows in the version control.
Demonstration models are compared with their UIDs; those with seeded weights are made here, so that their
versions, and the UIDs that derive from them, are this machine's own.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pydicom
import pytest
from typer.testing import CliRunner

from db.database import Database
from db.index import Index
from db.plans import Plans
from db.queue import Queue
from db.records import NewInstance
from db.results import Results
from db.states import JobState
from inference.demo.volume_phantoms import lung_phantom, straight_geometry, write_ct_series
from inference.importing.imports import import_model
from inference.store import ModelStore
from node.cli import application
from node.configuration.loading import load
from node.processes.process import make_folders
from node.roles.worker import Worker
from node.steps.planning import plan_study
from tests.inference.test_engine_contract import seeded_model
from tests.peers.waiting import wait_until
from tests.recorded import outputs
from tests.volume_models import add_ct_chest, bundle_folder, nnunet_folder

pytestmark = pytest.mark.engine

REAL_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
VALUES = Path(__file__).parent / "values"
RECORD = os.environ.get("RECORD") == "1"
SEEDED_ENGINES = (
    "brain_mri",
    "concept_prototype",
    "ct_chest",
    "image_classifier",
    "pneumonia",
    "whole_body_ct",
)
SECONDS = 120.0
CHEST = "cxr/rsna_pa_jpeg_sc_class.dcm"
HEAD = "ct_head_ge"

Place = Callable[[str], Path]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Where images are: the shared ones, or those that are made."""
    if not REAL_DATA.is_dir():
        pytest.skip("the real images are not on this machine")
    lungs = tmp_path_factory.mktemp("lungs")
    phantom = lung_phantom(10_000_003, (64, 110, 110), (1.25, 0.9, 0.9), nodules=2)
    geometry = straight_geometry(phantom.values.shape, phantom.spacing)
    write_ct_series(lungs, phantom.values, geometry, body_part="CHEST", seed="recorded")
    return lambda name: lungs if name == "lung_phantom" else REAL_DATA / name


@pytest.fixture(scope="module")
def configuration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with an engine for each kind, named as its kind."""
    folder = tmp_path_factory.mktemp("node")
    tables = [
        f'[[engine]]\nname = "{kind}"\nkind = "{kind}"\nmodel = "{model}"\nbackend = "torch"\ndevice = "cpu"\n'
        for kind, model in {
            **dict.fromkeys(("brain_metastasis", "chest_xray", "hybrid_volume", "lung_nodule"), "demo"),
            **{kind: kind for kind in SEEDED_ENGINES},
        }.items()
    ]
    tables.append(
        '[[route]]\nname = "chest"\nmatch = {}\nengines = ["chest_xray"]\ndestinations = ["pacs"]\n'
    )
    tables.append('[[destination]]\nname = "pacs"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = 104\n')
    file = folder / "config.toml"
    file.write_text("\n".join(tables))
    store = ModelStore(load(file).models_dir)
    for kind in ("concept_prototype", "image_classifier", "pneumonia"):
        seeded_model(store, kind, name=kind)
    add_ct_chest(store, "ct_chest")
    nnunet_folder(folder / "nnunet", {"background": 0, "enhancing tumor": 1})
    import_model(store, folder / "nnunet", name="brain_mri", trust=True, kind="brain_mri")
    bundle_folder(folder / "bundle", {"0": "background", "1": "brain", "2": "skull"})
    import_model(store, folder / "bundle", name="whole_body_ct", trust=True, kind="whole_body_ct")
    return file


CASES = [
    *[
        ("chest_xray", image)
        for image in (CHEST, "cxr/rsna_pa_monochrome1.dcm", "cxr/tbx11k_tb0005_tuberculosis.png")
    ],
    *[
        (engine, HEAD)
        for engine in ("brain_metastasis", "hybrid_volume", "lung_nodule", "whole_body_ct", "ct_chest")
    ],
    *[("lung_nodule", "lung_phantom"), ("ct_chest", "lung_phantom"), ("brain_mri", "mr_brain_siemens")],
    *[(engine, CHEST) for engine in ("concept_prototype", "image_classifier", "pneumonia")],
    *[("chest_xray", "transfer_syntaxes/RG2_J2KR.dcm")],
]


@pytest.mark.parametrize(("engine", "image"), CASES, ids=lambda text: text.replace("/", "-"))
def test_infer_says_what_was_recorded(
    place: Place, configuration: Path, tmp_path: Path, engine: str, image: str
) -> None:
    out = tmp_path / "out"
    arguments = [
        "infer",
        str(place(image)),
        "--engine",
        engine,
        "--out",
        str(out),
        "--json",
        "-c",
        str(configuration),
    ]
    # An application of one command would have no subcommands.
    ran = CliRunner().invoke(application(["infer", "stats"]), arguments)
    assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exception
    said = {"exit": ran.exit_code, "documents": outputs.document(json.loads(ran.stdout), out)}
    for path in sorted(out.rglob("*")):
        if path.suffix == ".dcm":
            said[path.name] = outputs.dicom(path)
        elif path.suffix == ".png" and path.name.startswith(("overlay", "heatmap")):
            said[path.name] = outputs.picture(path)
    compare(
        f"infer-{engine}-{image.replace('/', '-')}", anonymous(said) if engine in SEEDED_ENGINES else said
    )


@pytest.mark.parametrize(
    "image", [CHEST, "transfer_syntaxes/RG2_J2KR.dcm"], ids=lambda text: text.replace("/", "-")
)
def test_node_writes_what_was_recorded(place: Place, configuration: Path, image: str) -> None:
    settings = load(configuration)
    make_folders(settings)
    database = Database.open(settings.database_settings())
    database.upgrade()
    instance = put(place(image), settings.data_dir)
    index = Index(database)
    index.record([instance])
    instances = index.instances(instance.study_instance_uid)
    jobs = Plans(database).complete_study(instance.study_instance_uid, 1, plan_study(settings, instances))
    assert jobs is not None
    worker = Worker(settings, database, "recorder", ["chest_xray"])
    queue, stop = worker.queue, threading.Event()
    serving = threading.Thread(target=worker.serve, args=(stop,))
    serving.start()
    try:
        wait_until(lambda: ended(queue, jobs[0].id), SECONDS, "the job ends")
    finally:
        stop.set()
        serving.join()
    done = queue.get(jobs[0].id)
    assert done is not None
    said: dict[str, Any] = {"state": done.state, "reason": done.reason, "version": done.model_version}
    said["summary"] = outputs.document(done.summary, settings.data_dir)
    for number, result in enumerate(Results(database).of_job(done.id), start=1):
        said[f"{number}-{result.kind}"] = {
            "attributes": {k: v for k, v in result.attributes.items() if not outputs.TIMES.search(k)},
            **outputs.dicom(settings.data_dir / result.path),
        }
    database.close()
    compare(f"node-{image.replace('/', '-')}", said)


def ended(queue: Queue, job: int) -> bool:
    """Whether a job has an outcome."""
    found = queue.get(job)
    return found is not None and found.state in (JobState.SUCCEEDED, JobState.SKIPPED, JobState.FAILED)


def put(image: Path, data_dir: Path) -> NewInstance:
    """A received instance with the bytes of that file."""
    dataset = pydicom.dcmread(image, stop_before_pixels=True)
    data = image.read_bytes()
    relative = Path("spool") / "00" / image.name
    (data_dir / relative).parent.mkdir(parents=True, exist_ok=True)
    (data_dir / relative).write_bytes(data)
    keywords = (
        "Modality",
        "BodyPartExamined",
        "PatientID",
        "ImageType",
        "ViewPosition",
        "PhotometricInterpretation",
    )
    return NewInstance(
        study_instance_uid=str(dataset.StudyInstanceUID),
        series_instance_uid=str(dataset.SeriesInstanceUID),
        sop_instance_uid=str(dataset.SOPInstanceUID),
        sop_class_uid=str(dataset.SOPClassUID),
        transfer_syntax_uid=str(dataset.file_meta.TransferSyntaxUID),
        path=str(relative),
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        calling_ae="CR1",
        called_ae="OVERREAD",
        peer_address="127.0.0.1",
        association="a1",
        received_at=datetime.now(UTC),
        attributes={
            k: "\\".join(map(str, v)) if hasattr(v := dataset.get(k, ""), "append") else str(v)
            for k in keywords
        },
    )


def anonymous(said: outputs.Recorded) -> outputs.Recorded:
    """Without versions, and without UIDs that derive from them."""
    text = re.sub(r"1\+[0-9a-f]{12}\.[0-9a-f]{8}(\.[0-9a-f]{8})?", "VERSION", json.dumps(said))
    return json.loads(re.sub(r"2\.25\.\d{20,}", "UID", text))


def compare(name: str, said: outputs.Recorded) -> None:
    """Hold values against those that were recorded, or record them."""
    file = VALUES / f"{name}.json"
    if RECORD:
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n")
    former = json.loads(file.read_text())
    assert outputs.differences(former, json.loads(json.dumps(said))) == []
