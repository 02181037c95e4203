"""The engine of docs/add-an-engine.md works as it stands there, up to a report."""

from __future__ import annotations

import importlib.util
import re
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from inference.headers import ImageHeader
from inference.settings import EngineSettings
from inference.store import ModelStore
from sr_writer.context import ReportContext
from sr_writer.results import write_results
from tests.inference.conftest import WriteRadiograph

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "add-an-engine.md"


def test_example_is_an_engine(tmp_path: Path, write_radiograph: WriteRadiograph) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    file = tmp_path / "mean_brightness.py"
    file.write_text(code)
    spec = importlib.util.spec_from_file_location("mean_brightness", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mean_brightness"] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules["mean_brightness"]
    kind = module.MeanBrightnessEngine
    settings = EngineSettings(name="bright", kind="mean_brightness", model="none")
    engine = kind.load(settings, ModelStore(tmp_path))
    header = ImageHeader(sop_class_uid="1", sop_instance_uid="1.2", attributes={"Rows": "10"})
    assert kind.select([header]).inputs == ("1.2",)
    path = write_radiograph(np.full((64, 64), 255, np.uint8))
    analyses = engine.infer(engine.prepare([path]))
    assert analyses[0].findings[0].probability == 1.0
    context = ReportContext(
        job_seed="example", engine_name="bright", content_datetime=datetime.now(UTC), series_number=9000
    )
    (report,) = write_results(analyses, context)
    assert report.kind == "sr"
