"""The command line without a node: exit statuses, messages in place of stack traces, what may be overwritten."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.uid import generate_uid

from handlers.sending.sender import EchoResult
from inference.engines import engine_class
from inference.store.card_files import CARD
from inference.store.card_parts import Temperature
from inference.store.store import DEMONSTRATION_FOLDER, WEIGHTS, ModelStore
from node import cli
from node.commands import check, demo
from node.errors import CommandError
from tests.inference.test_engine_contract import seeded_model
from tests.peers.waiting import free_port
from tests.system.conftest import write_radiograph
from tests.volume_models import nnunet_folder

CONFIGURATION = """\
[[engine]]
name = "cxr"
kind = "chest_xray"
model = "demo"
backend = "torch"

[[engine]]
name = "nodules"
kind = "lung_nodule"
model = "demo"

[[destination]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {port}

[[route]]
name = "chest"
match = {{ Modality = "CR" }}
engines = ["cxr"]
destinations = ["pacs"]
"""

Called = tuple[int, str, str]
Call = Callable[..., Called]


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Called]:
    """Runs a command in the test's folder; its exit status, output and errors."""
    (tmp_path / "config.toml").write_text(CONFIGURATION.format(port=free_port()))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Called:
        monkeypatch.setattr("sys.argv", ["overread", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            "infer scan.dcm --engine nope --out out",
            "There is no engine 'nope' in config.toml: it has cxr, nod",
        ),
        ("infer scan.dcm --engine cxr --out out --roi 1,2", "'1,2' is no region"),
        ("infer nothing.dcm --engine cxr --out out", "nothing.dcm does not exist"),
        ("infer scan.dcm --engine cxr --out scan.dcm", "scan.dcm is no folder"),
        ("explain-route nothing.dcm", "nothing.dcm does not exist"),
        ("send nothing.dcm --to PACS@localhost:104", "nothing.dcm does not exist"),
        ("send scan.dcm --to bogus", "'bogus' is no address"),
        ("send scan.dcm --to PACS@localhost:104 --calling ThisAETitleIsFarTooLong", "is no AE title"),
        ("send scan.dcm --to ÜÜ@localhost:104", "'ÜÜ' is no AE title"),
        ("echo bogus", "'bogus' is no address"),
        ("echo ÜÜ@localhost:104", "'ÜÜ' is no AE title"),
        ("calibrate --engine cxr --labels labels.csv", "Name either --images or --results"),
        ("calibrate --engine cxr --labels labels.csv --images . --results .", "either --images or --results"),
        ("calibrate --engine nope --labels labels.csv --images .", "There is no engine 'nope'"),
        (
            "calibrate --engine nodules --labels labels.csv --images .",
            "lung_nodule cannot apply a calibration",
        ),
        ("calibrate --engine cxr --labels nothing.csv --images .", "nothing.csv does not exist"),
        ("calibrate --engine cxr --labels labels.csv --results nothing", "nothing does not exist"),
    ],
)
def test_wrong_usage_is_said_in_a_sentence(call: Call, tmp_path: Path, arguments: str, said: str) -> None:
    write_radiograph(tmp_path / "scan.dcm", 1)
    (tmp_path / "labels.csv").write_text("input,Nodule\nscan.dcm,1\n")
    status, _, message = call(*arguments.split(" "))
    assert said in message
    assert status == 2


def test_empty_ae_title_is_refused(call: Call) -> None:
    assert call("echo", " @localhost:104")[0] == 2


def test_a_folder_that_cannot_be_made_is_named(call: Call, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[node]\ndata_dir = "/proc/nope"\n')
    status, _, message = call("serve")
    assert (status, message) == (1, "/proc/nope: No such file or directory.\n")


@pytest.mark.parametrize("command", ["queue", "stats"])
def test_a_file_that_is_no_database_is_said(call: Call, tmp_path: Path, command: str) -> None:
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "overread.db").write_bytes(b"no database " * 100)
    status, _, message = call(command)
    assert status == 1
    assert message.startswith("The file of the database cannot be used (file is not a database)")


def test_check_goes_on_after_an_engine_that_fails(
    call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "overread.db").write_bytes(b"no database " * 100)

    def load(_settings: object, _store: object) -> None:
        raise RuntimeError("no luck\nat all")

    monkeypatch.setattr(engine_class("chest_xray"), "load", load)
    loaded = SimpleNamespace(model=SimpleNamespace(version="1"), device="cpu")
    monkeypatch.setattr(engine_class("lung_nodule"), "load", lambda _settings, _store: loaded)
    status, output, _ = call("check", "--json")
    findings = {finding["subject"]: finding for finding in json.loads(output)}
    assert status == 1
    assert not findings["engine cxr"]["ok"]
    assert findings["engine cxr"]["message"].startswith("does not load: RuntimeError at test_commands.py:")
    assert findings["engine cxr"]["message"].endswith(": no luck")
    assert findings["engine nodules"]["ok"]
    assert not findings["database"]["ok"]
    assert not findings["destination pacs"]["ok"]


def test_check_prints_each_finding_when_it_is_known(
    call: Call, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before: list[str] = []

    def echo(*_: object) -> EchoResult:
        before.append(capsys.readouterr().out)
        return EchoResult(ok=False, reason="nobody", milliseconds=0)

    monkeypatch.setattr(check, "_engines", lambda _configuration: iter(()))
    monkeypatch.setattr(check, "echo", echo)
    status, rest, _ = call("check")
    assert status == 1
    assert "ok    configuration" in before[0] and "database" in before[0]
    assert rest == "wrong destination pacs: does not answer: nobody\n"


@pytest.mark.parametrize("command", ["infer", "calibrate", "send", "echo", "models import"])
def test_help_names_the_tables_of_the_configuration(call: Call, command: str) -> None:
    status, text, _ = call(*command.split(" "), "--help")
    assert status == 0
    assert ("[tls] of" if command in ("send", "echo") else "[[engine]]") in " ".join(text.split())


def test_values_of_files_are_not_in_warnings(call: Call, tmp_path: Path) -> None:
    write_radiograph(tmp_path / "scan.dcm", 1, StudyInstanceUID="canary")
    command = [sys.executable, "-m", "node.cli", "explain-route", str(tmp_path / "scan.dcm")]
    root = Path(cli.__file__).resolve().parents[1]
    done = subprocess.run(
        [*command, "-c", str(tmp_path / "config.toml")], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_explain_route_sees_what_a_receiver_sees(call: Call, tmp_path: Path) -> None:
    for name, comments in (("long", "x" * 5000), ("short", "x")):
        write_radiograph(tmp_path / f"{name}.dcm", 1, ImageComments=comments, StationName=name)
    data = (tmp_path / "long.dcm").read_bytes()
    (tmp_path / "cut.dcm").write_bytes(data[:400])
    (tmp_path / "notes.txt").write_text("no DICOM")
    file = tmp_path / "config.toml"
    file.write_text(file.read_text().replace('Modality = "CR"', 'ImageComments = "x+"'))
    names = ("long.dcm", "short.dcm", "cut.dcm", "notes.txt")
    status, output, said = call("explain-route", *(str(tmp_path / name) for name in names), "--json")
    taken = [rule["takes"] for series in json.loads(output) for rule in series["rules"]]
    assert (status, taken) == (0, [False, True])
    assert "cut.dcm: a receiver refuses it:" in said
    assert "notes" not in said


# What infer makes of its inputs


def infer(call: Call, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    status, output, _ = call("infer", *arguments, "--out", "out", "--json")
    return status, json.loads(output)


def test_each_case_has_a_folder_of_its_own(call: Call, tmp_path: Path) -> None:
    for name in ("pa", "pb"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (256, 1))).save(tmp_path / name / "scan.png")
    uid = str(write_radiograph(tmp_path / "a.dcm", 1).SOPInstanceUID)
    write_radiograph(tmp_path / "b.dcm", 2, SOPInstanceUID=uid)
    former = ("result.json", "heatmap-of-an-earlier-run.png", "overlay-9.dcm")
    for name in (*former, "notes.txt"):
        (tmp_path / "out" / "scan").mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / "scan" / name).write_text("former")
    status, done = infer(
        call, "pa/scan.png", "pb/scan.png", "pa/scan.png", "a.dcm", "b.dcm", "--engine", "cxr"
    )
    assert status == 0
    folders = ["scan", "scan-2", uid, f"{uid}-2"]
    assert [{Path(path).parent.name for path in case["files"]} for case in done] == [{f} for f in folders]
    for case, folder in zip(done, folders, strict=True):
        assert case["input"] == json.loads((tmp_path / "out" / folder / "result.json").read_text())["input"]
        written = {path.name for path in (tmp_path / "out" / folder).iterdir()} - {"notes.txt"}
        assert written == {Path(path).name for path in case["files"]} | {"result.json"}
    assert (tmp_path / "out" / "scan" / "notes.txt").read_text() == "former"
    reports = [dcmread(tmp_path / "out" / folder / "sr.dcm") for folder in folders[2:]]
    assert len({(report.SeriesNumber, report.SeriesInstanceUID) for report in reports}) == 2
    assert reports[0].SeriesNumber != reports[1].SeriesNumber


@pytest.mark.engine
def test_plain_picture_gets_an_overlay_and_the_disclaimer(call: Call, tmp_path: Path) -> None:
    seeded_model(
        ModelStore(tmp_path / "var" / "models"), "pneumonia", name="lungs", labels=("NORMAL", "Pneumonia")
    )
    configuration = tmp_path / "config.toml"
    table = '\n[[engine]]\nname = "lungs"\nkind = "pneumonia"\nmodel = "lungs"\nbackend = "torch"\n'
    configuration.write_text(configuration.read_text() + table)
    Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (256, 1))).save(tmp_path / "scan.png")
    status, (case,) = infer(call, "scan.png", "--engine", "lungs")
    assert status == 0
    assert (case["labels"], case["negative_class"]["label"]) == (["Pneumonia"], "NORMAL")
    chances = {"Pneumonia": case["calibrated_probabilities"][0]}
    chances["NORMAL"] = case["negative_class"]["calibrated_probability"]
    assert case["prediction"] == max(chances, key=lambda name: chances[name])
    assert case["confidence"] == round(max(chances.values()), 4)
    names = [Path(path).name for path in case["files"]]
    assert names == ["overlay-1.png", "heatmap-pneumonia.png"]
    assert case["overlay_available"] is True
    with Image.open(tmp_path / "out" / "scan" / "overlay-1.png") as overlay:
        assert overlay.mode == "RGB"
    assert "Clinical correlation required" in case["disclaimer"]
    assert "Clinical correlation required" in (tmp_path / "out" / "results.csv").read_text()


def test_infer_refuses_what_the_node_refuses(call: Call, tmp_path: Path) -> None:
    series = {"SeriesInstanceUID": generate_uid(), "Modality": "CT", "BodyPartExamined": "HEAD"}
    for number in range(4):
        write_radiograph(tmp_path / f"head{number}.dcm", number, **series)
    write_radiograph(tmp_path / "hand.dcm", 1, Modality="MR")
    status, done = infer(
        call, "head0.dcm", "hand.dcm", *(f"head{n}.dcm" for n in (1, 2, 3)), "--engine", "nodules"
    )
    assert status == 1
    assert [(case["input"], case["skipped"]) for case in done] == [
        ("head0.dcm", "lung_nodule is not for the body part HEAD"),
        ("hand.dcm", "lung_nodule takes CT series, not MR"),
    ]


def test_infer_fails_where_every_input_was_skipped(call: Call, tmp_path: Path) -> None:
    write_radiograph(tmp_path / "lateral.dcm", 1, ViewPosition="LL")
    status, (case,) = infer(call, "lateral.dcm", "--engine", "cxr")
    assert "frontal" in case["skipped"]
    assert status == 1
    assert call("infer", "lateral.dcm", "--engine", "cxr", "--out", "out")[0] == 1


# The demonstration


def test_demo_leaves_folders_alone_that_it_did_not_make(call: Call, tmp_path: Path) -> None:
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "overread.db").write_text("a year of work")
    for folder in (".", "var", "config.toml"):
        status, _, message = call("demo", "--out", folder)
        assert status == 2
        assert f"{folder} exists and `overread demo` did not make it: name another folder" in message
    assert (tmp_path / "var" / "overread.db").read_text() == "a year of work"
    assert (tmp_path / "config.toml").exists()


def test_demo_takes_the_folder_of_a_former_one(
    call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()

    def fail(*_: object, **__: object) -> None:
        raise CommandError("as far as the test goes")

    monkeypatch.setattr(demo, "_wait_until_ready", fail)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: MagicMock())
    for _ in range(2):
        status, _, message = call("demo", "--out", "shown")
        assert (status, message) == (1, "as far as the test goes\n")
        (tmp_path / "shown" / "var").mkdir()
        (tmp_path / "shown" / "linked").symlink_to(tmp_path / "kept")
    assert (tmp_path / "kept" / "file").exists()
    call("demo", "--out", "shown")
    assert not (tmp_path / "shown" / "var").exists()


# The model store


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A safetensors file with its card."""
    bundled = DEMONSTRATION_FOLDER / "chest_xray"
    shutil.copy(bundled / WEIGHTS, tmp_path / "mine.safetensors")
    shutil.copy(bundled / CARD, tmp_path / "mine.json")
    return tmp_path / "mine.safetensors"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("mine.safetensors --name mine --kind bogus", "There is no engine kind 'bogus'"),
        ("mine.safetensors --name mine --kind chest_xray", "leave --kind out"),
        ("mine.safetensors --name mine --labels config.toml", "leave --labels out"),
        (
            "mine.safetensors --name mine --normalisation unit --published x",
            "leave --normalisation and --published",
        ),
        ("config.toml --name mine --published x --kind chest_xray", "leave --kind out"),
        ("mine.safetensors --name mine --labels nofile.json", "nofile.json does not exist"),
        ("mine.safetensors --name demo", "'demo' is the name of the models that come with overread"),
        ("nofile.safetensors --name mine", "nofile.safetensors does not exist"),
        ("bundle --name mine --labels config.toml", "leave --labels out"),
        ("bundle --name mine --normalisation unit", "leave --normalisation out"),
        ("nnunet --name mine --kind chest_xray", "--kind may be nnunet or brain_mri"),
    ],
)
def test_models_import_refuses_what_it_would_not_use(
    call: Call, model: Path, tmp_path: Path, arguments: str, said: str
) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "nnunet").mkdir()
    (tmp_path / "nnunet" / "plans.json").write_text("{}")
    status, _, message = call("models", "import", *arguments.split())
    assert said in message
    assert status == 2


@pytest.mark.parametrize(("arguments", "kind"), [((), "brain_mri"), (("--kind", "nnunet"), "nnunet")])
@pytest.mark.engine
def test_models_import_says_the_kind_of_an_nnunet(
    call: Call, tmp_path: Path, arguments: tuple[str, ...], kind: str
) -> None:
    nnunet_folder(tmp_path / "results", {"background": 0, "brain": 1})
    status, output, _ = call("models", "import", "results", "--name", "mine", "--trust", *arguments)
    assert status == 0
    assert f"for {kind} engines" in output
    assert ModelStore(tmp_path / "var" / "models").get("mine").card.kind == kind


@pytest.mark.engine
def test_models_import_overwrites_no_other_model(call: Call, model: Path, tmp_path: Path) -> None:
    arguments = ("models", "import", "mine.safetensors", "--name", "mine")
    card = model.with_suffix(".json")
    for _ in range(2):
        assert call(*arguments)[0] == 0
    store = ModelStore(tmp_path / "var" / "models")
    store.set_calibration("mine", Temperature(method="temperature", temperature=2.0))
    assert call(*arguments)[0] == 0
    assert store.get("mine").card.calibration is not None
    before = json.loads(card.read_text())
    card.write_text(json.dumps({**before, "version": "another"}))
    status, _, message = call(*arguments)
    assert status == 1
    assert "The store has another model 'mine': choose another --name, or remove or rename" in message
    assert store.get("mine").card.version == before["version"]
    (tmp_path / "var" / "models" / "mine" / WEIGHTS).write_bytes(b"damaged")
    assert call(*arguments)[0] == 0
    assert store.get("mine").card.version == "another"


@pytest.mark.engine
def test_models_expect_writes_what_the_images_have(call: Call, model: Path, tmp_path: Path) -> None:
    assert call("models", "import", "mine.safetensors", "--name", "mine")[0] == 0
    store = ModelStore(tmp_path / "var" / "models")
    kinds = store.get("mine").card.expects
    assert kinds is not None
    refuse = kinds.measures["contrast"].refuse
    (tmp_path / "in").mkdir()
    greys = np.linspace(0, 255, 256, dtype=np.uint8)
    for number, contrast in enumerate((0.5, 0.6)):
        picture = np.tile((contrast * greys).astype(np.uint8), (256, 1))
        Image.fromarray(picture).save(tmp_path / "in" / f"{number}.png")
    status, output, _ = call("models", "expect", "mine", "--images", "in", "--json")
    assert status == 0
    expects = store.get("mine").card.expects
    assert expects is not None
    assert json.loads(output) == expects.model_dump(mode="json")
    assert expects.cases == 2
    assert expects.measures["brightness"].review == pytest.approx((0.22, 0.33), abs=0.01)
    assert expects.measures["contrast"].refuse == refuse
    assert call("models", "import", "mine.safetensors", "--name", "mine")[0] == 0
    assert store.get("mine").card.expects == expects
    status, output, _ = call("models", "expect", "mine", "--images", "in")
    assert status == 0
    assert "The card of mine now expects what 2 cases have; 0 were refused." in output


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ("mine --images nothing", 2, "nothing is no folder"),
        ("nope --images in", 1, "'nope'"),
        ("mine --images in", 1, "The model takes nothing in in: "),
    ],
)
def test_models_expect_says_what_is_missing(
    call: Call, model: Path, tmp_path: Path, arguments: str, status: int, said: str
) -> None:
    assert call("models", "import", "mine.safetensors", "--name", "mine")[0] == 0
    (tmp_path / "in").mkdir()
    Image.fromarray(np.zeros((256, 256), dtype=np.uint8)).save(tmp_path / "in" / "blank.png")
    ended, _, message = call("models", "expect", *arguments.split())
    assert said in message
    assert ended == status


def test_check_names_a_label_that_the_model_has_not(call: Call, tmp_path: Path) -> None:
    thresholds = "thresholds = { %s = { low = 0.1, high = 0.5, critical = 0.8 } }\n"
    engines = CONFIGURATION[: CONFIGURATION.index("[[destination]]")].split("\n\n")
    (tmp_path / "config.toml").write_text(
        f"{engines[0]}\n{thresholds % 'Cardiomegali'}\n{engines[1]}\n{thresholds % 'Bogus'}"
    )
    status, output, _ = call("check", "--json")
    found = {finding["subject"]: finding["message"] for finding in json.loads(output)}
    assert status == 1
    assert "no label 'Cardiomegali'; did you mean 'Cardiomegaly'?" in found["engine cxr"]
    assert "no label 'Bogus'; it has " in found["engine nodules"]
