"""Volumes are prepared and concluded by copies of engines without networks, which other processes can take."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference.engines import engine_class
from inference.findings import Refusal
from inference.importing.imports import import_model
from inference.settings import EngineSettings
from inference.store import ModelStore
from tests.inference.test_volume_engines import TISSUES, VOLUME_KINDS, head_series, lung_series
from tests.public import ROOT
from tests.volume_models import add_ct_chest, bundle_folder, nnunet_folder

pytestmark = pytest.mark.engine

OF_HEADS = ("brain_metastasis", "hybrid_volume", "nnunet", "brain_mri")
IN_A_PROCESS = """
import pickle, sys
from pathlib import Path
engine, paths, outputs = pickle.loads(Path(sys.argv[1]).read_bytes())
cases = engine.prepare(paths)
analyses = [engine.conclude(case, output) for case, output in zip(cases, outputs, strict=True)]
Path(sys.argv[2]).write_bytes(pickle.dumps(analyses))
sys.exit("torch" in sys.modules)
"""


def loaded_engine(folder: Path, kind: str) -> Any:
    """An engine of a kind for volumes with a small model."""
    store, model = ModelStore(folder / "models"), "seeded"
    if kind in ("lung_nodule", "brain_metastasis", "hybrid_volume"):
        model = "demo"
    elif kind == "ct_chest":
        add_ct_chest(store, model)
    elif kind in ("nnunet", "brain_mri"):
        labels = {"background": 0, "brain": 1, "Hemorrhage": 2}
        nnunet_folder(folder / "results", labels, channel="CT")
        import_model(store, folder / "results", name=model, kind=kind, trust=True)
    else:
        bundle_folder(folder / "bundle", TISSUES)
        import_model(store, folder / "bundle", name=model, kind=kind, trust=True)
    settings = EngineSettings(name="x", kind=kind, model=model, device="cpu", backend="torch")
    return engine_class(kind).load(settings, store)


def series(folder: Path, kind: str) -> list[Path]:
    if kind in OF_HEADS:
        return head_series(folder, lesion=True, haemorrhage=True)[1]
    return lung_series(folder, nodules=1)[1]


def assert_equal(one: Any, other: Any) -> None:
    """Equality of values that may hold arrays; the arrays must be equal in every byte."""
    assert type(one) is type(other)
    if is_dataclass(one):
        for entry in fields(one):
            assert_equal(getattr(one, entry.name), getattr(other, entry.name))
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    elif isinstance(one, dict):
        assert_equal(list(one.items()), list(other.items()))
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_equal(a, b)
    else:
        assert one == other


@pytest.mark.parametrize("kind", VOLUME_KINDS)
def test_copy_without_networks_prepares_and_concludes(tmp_path: Path, kind: str) -> None:
    engine, paths = loaded_engine(tmp_path, kind), series(tmp_path / "in", kind)
    cases = engine.prepare(paths)
    assert not any(isinstance(case, Refusal) for case in cases), cases
    outputs = engine.run(cases)
    analyses = [engine.conclude(case, output) for case, output in zip(cases, outputs, strict=True)]
    lean = pickle.loads(pickle.dumps(engine.without_networks()))
    assert not hasattr(lean, "network")
    with pytest.raises(ValueError, match="without its networks' inputs"):
        engine.run([cases[0].without_inputs()])
    assert (lean.device, lean.model) == (engine.device, engine.model)
    assert_equal(lean.prepare(paths), cases)
    taken = pickle.loads(pickle.dumps(([case.without_inputs() for case in cases], outputs)))
    assert_equal([lean.conclude(case, output) for case, output in zip(*taken, strict=True)], analyses)
    inferred = engine.infer(cases)
    assert [a.findings for a in inferred] == [a.findings for a in analyses]


@pytest.mark.parametrize("kind", ["lung_nodule", "brain_metastasis", "ct_chest", "monai_bundle"])
def test_copy_without_networks_needs_no_torch(tmp_path: Path, kind: str) -> None:
    engine, paths = loaded_engine(tmp_path, kind), series(tmp_path / "in", kind)
    cases = engine.prepare(paths)
    outputs = engine.run(cases)
    task, result = tmp_path / "task", tmp_path / "result"
    task.write_bytes(pickle.dumps((engine.without_networks(), paths, outputs)))
    done = subprocess.run(
        [sys.executable, "-c", IN_A_PROCESS, task, result],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr or "torch was loaded"
    analyses = [engine.conclude(case, output) for case, output in zip(cases, outputs, strict=True)]
    assert_equal(pickle.loads(result.read_bytes()), analyses)
