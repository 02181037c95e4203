"""Which cases ``overread calibrate`` sees: a series is one, however the labels name it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from inference.demo.volume_phantoms import head_phantom, straight_geometry, write_ct_series
from inference.engines import engine_class
from inference.offline.output import case_document
from inference.settings import EngineSettings
from inference.store import ModelStore
from node.commands.calibrate import _in_output_order, _inferred_logits, _read_labels, _stored_logits
from node.errors import CommandError
from tests.inference.test_engine_contract import analyse, seeded_model


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three series of 10 slices, each in a folder of its own."""
    folder = tmp_path_factory.mktemp("series")
    for number in range(3):
        phantom = head_phantom(number, 10, 64, lesion=number == 0)
        geometry = straight_geometry(phantom.values.shape, phantom.spacing)
        write_ct_series(folder / f"case{number}", phantom.values, geometry, body_part="HEAD")
    return folder


def uid_of(folder: Path) -> str:
    return str(pydicom.dcmread(next(folder.iterdir()), stop_before_pixels=True).SeriesInstanceUID)


def test_series_is_one_case_by_folder_uid_or_file(series: Path, tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    settings = EngineSettings(name="mets", kind="brain_metastasis", model="demo")
    engine = engine_class("brain_metastasis").load(settings, store)
    card = store.get("demo", "brain_metastasis").card
    file = next((series / "case2").iterdir()).name
    truth = {"case0": [1.0], uid_of(series / "case1"): [0.0], f"case2/{file}": [0.0]}
    logits = _inferred_logits(engine, series, truth, card)
    assert logits.keys() == truth.keys()
    with pytest.raises(CommandError, match="fit 3 cases"):  # each series has a file of that name
        _inferred_logits(engine, series, {file: [1.0]}, card)
    with pytest.raises(CommandError, match="call one case"):
        _inferred_logits(engine, series, {"case0": [1.0], uid_of(series / "case0"): [0.0]}, card)


def test_stored_series_are_told_apart_by_folder_or_uid(tmp_path: Path) -> None:
    card = ModelStore(tmp_path).get("demo", "brain_metastasis").card
    for number in (1, 2):
        folder = tmp_path / "out" / str(number)
        folder.mkdir(parents=True)
        document = {
            "input": f"scans/{number}/0001.dcm",
            "series_instance_uid": f"1.2.{number}",
            "skipped": None,
            "labels": [label.name for label in card.labels],
            "logits": [float(number)],
            "negative_class": None,
        }
        (folder / "result.json").write_text(json.dumps(document))
    truth = {"scans/1": [0.0], "1.2.2": [1.0]}
    assert _stored_logits(tmp_path / "out", truth, card) == {"scans/1": [1.0], "1.2.2": [2.0]}
    with pytest.raises(CommandError, match="fit 2 cases"):
        _stored_logits(tmp_path / "out", {"0001.dcm": [0.0]}, card)


def test_files_of_the_same_name_in_other_folders_may_have_other_labels(tmp_path: Path) -> None:
    card = ModelStore(tmp_path).get("demo", "brain_metastasis").card
    file, label = tmp_path / "labels.csv", card.labels[0].name
    file.write_text(f"input,{label}\n1/0001.dcm,0\n2/0001.dcm,1\n")
    assert _read_labels(file, card) == {"1/0001.dcm": [0.0], "2/0001.dcm": [1.0]}
    file.write_text(f"input,{label}\n1/0001.dcm,0\n./1/0001.dcm,1\n")
    with pytest.raises(CommandError, match="twice, with different labels"):
        _read_labels(file, card)


def test_negative_class_takes_part_in_a_fit_and_nothing_is_made_up(tmp_path: Path) -> None:
    store = seeded_model(ModelStore(tmp_path), "pneumonia", size=64, labels=("NORMAL", "Pneumonia"))
    card = store.get("seeded", "pneumonia").card
    picture = tmp_path / "images" / "a.png"
    picture.parent.mkdir()
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (90, 80), dtype=np.uint8)).save(picture)
    settings = EngineSettings(name="x", kind="pneumonia", model="seeded", device="cpu", backend="torch")
    engine = engine_class("pneumonia").load(settings, store)
    analysis = analyse(engine, picture)
    assert analysis.absence is not None
    expected = {"a.png": [analysis.absence.logit, analysis.findings[0].logit]}
    truth = {"a.png": [1.0, 0.0]}
    assert _inferred_logits(engine, picture.parent, truth, card) == expected
    (tmp_path / "result.json").write_text(json.dumps(case_document(analysis, "x", tmp_path, [])))
    assert _stored_logits(tmp_path, truth, card) == expected
    with pytest.raises(CommandError, match="has no logit of NORMAL"):
        _in_output_order({"Pneumonia": 1.0}, card, "a.png")
    unnamed = card.model_copy(
        update={"labels": (card.labels[0].model_copy(update={"name": ""}), card.labels[1])}
    )
    with pytest.raises(CommandError, match="outputs without a name"):
        _in_output_order({"Pneumonia": 1.0}, unnamed, "a.png")
