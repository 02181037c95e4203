"""``overread calibrate`` on labelled pictures: held-out cases decide, the card keeps what helps."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inference.demo.phantoms import FINDINGS, chest_phantom
from inference.store import ModelStore
from tests.peers.node import Node

CASES = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn radiographs, and their labels; a third of the labels are wrong, so that the model is too sure."""
    folder = tmp_path_factory.mktemp("calibrate")
    random = np.random.default_rng(1)
    (folder / "images").mkdir()
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["input", *FINDINGS])
        for seed in range(CASES):
            phantom = chest_phantom(seed, 256)
            name = f"{seed}.png"
            Image.fromarray(np.rint(phantom.picture * 255).astype(np.uint8)).save(folder / "images" / name)
            wrong = random.random(len(FINDINGS)) < 1 / 3
            writer.writerow([name, *(int(p != w) for p, w in zip(phantom.present, wrong, strict=True))])
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a copy of the demonstration model, so that its card may change."""
    where = tmp_path_factory.mktemp("models")
    node = Node(where, model="copy")
    demo = ModelStore(where).get("demo", "chest_xray")
    (where / "copy.safetensors").write_bytes(demo.weights.read_bytes())
    (where / "copy.json").write_text(demo.card.model_dump_json())
    node.command("models", "import", str(where / "copy.safetensors"), "--name", "copy")
    return node.data_dir / "models"


@pytest.fixture
def node(models: Path, tmp_path: Path) -> Node:
    """A configuration with a store of its own."""
    node = Node(tmp_path, model="copy")
    shutil.copytree(models, node.data_dir / "models")
    return node


@pytest.mark.parametrize("method", ["temperature", pytest.param("platt", marks=pytest.mark.slow)])
def test_calibration_that_helps_is_kept(folder: Path, node: Node, tmp_path: Path, method: str) -> None:
    arguments = ["--engine", "cxr", "--labels", str(folder / "labels.csv"), "--method", method]
    document = node.json(
        "calibrate",
        *arguments,
        "--images",
        str(folder / "images"),
        "--diagram",
        str(tmp_path / "diagram.png"),
    )
    assert document["kept"]
    assert document["after"]["log_loss"] < document["before"]["log_loss"]
    with Image.open(tmp_path / "diagram.png") as diagram:
        assert diagram.size == (640, 640)
    card = ModelStore(node.data_dir / "models").get("copy").card
    assert card.calibration is not None
    assert card.calibration.method == method
    (first, second) = node.json("models", "history", "copy")
    assert (first["used"], second["used"]) == (False, True)
    assert document["model_version"] == second["version"]
    node.command("models", "use", f"copy@{first['version']}")
    assert ModelStore(node.data_dir / "models").get("copy").card.calibration is None


def test_stored_results_are_as_good_as_images_and_calibration_changes_what_is_reported(
    folder: Path, node: Node, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    before = node.json("infer", str(folder / "images"), "--engine", "cxr", "--out", str(out))
    assert before[0]["probabilities"] == before[0]["calibrated_probabilities"]
    arguments = ["--engine", "cxr", "--labels", str(folder / "labels.csv"), "--results", str(out)]
    assert node.json("calibrate", *arguments, "--diagram", str(tmp_path / "d.png"))["kept"]
    shutil.rmtree(out)
    after = node.json("infer", str(folder / "images" / "0.png"), "--engine", "cxr", "--out", str(out))
    assert after[0]["probabilities"] != after[0]["calibrated_probabilities"]


def test_labels_file_that_does_not_fit_is_refused(folder: Path, node: Node, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("input,Other\n1.png,1\n")
    arguments = [
        "--engine",
        "cxr",
        "--labels",
        str(tmp_path / "labels.csv"),
        "--images",
        str(folder / "images"),
    ]
    node.command("calibrate", *arguments, status=1)
