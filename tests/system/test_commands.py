"""The commands and the web process against the public contract, on a running node."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from node.processes.libraries import Role
from tests.peers.dcmtk import Storescp, send
from tests.peers.node import Node
from tests.peers.waiting import wait_until
from tests.system.conftest import Site, write_radiograph

JOB_KEYS = [
    "id",
    "study_instance_uid",
    "series_instance_uid",
    "engine",
    "model_version",
    "state",
    "priority",
    "attempts",
    "reason",
    "created_at",
    "updated_at",
    "deliveries",
]
CASE_KEYS = [
    "input",
    "series_instance_uid",
    "engine",
    "model_version",
    "device",
    "labels",
    "logits",
    "probabilities",
    "calibrated_probabilities",
    "ensemble_std",
    "individual_predictions",
    "ensemble_size",
    "tta_applied",
    "prediction",
    "confidence",
    "negative_class",
    "heatmaps",
    "overlay_available",
    "inference_time_ms",
    "review_advised",
    "disclaimer",
    "skipped",
    "files",
]


@pytest.fixture(scope="module")
def job(site: Site, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A finished job."""
    path = tmp_path_factory.mktemp("study") / "study.dcm"
    write_radiograph(path, 1)
    send(site.node.port, path)
    (job,) = site.node.wait_for_jobs(1)
    return job


def test_queue_prints_jobs_of_the_contract(site: Site, job: dict[str, Any]) -> None:
    (shown,) = site.node.json("queue")
    assert list(shown) == JOB_KEYS
    assert list(shown["deliveries"][0]) == ["destination", "state", "attempts", "last_status"]
    assert (shown["state"], shown["deliveries"][0]["last_status"]) == ("succeeded", "0000")
    assert datetime.fromisoformat(shown["created_at"]).utcoffset() is not None
    assert site.node.json("queue", "--state", "failed") == []
    assert "succeeded" in site.node.command("queue")


def test_show_tells_the_whole_story(site: Site, job: dict[str, Any]) -> None:
    study = site.node.json("show", job["study_instance_uid"])
    assert study["state"] == "complete"
    assert study["series"][0]["instances"][0]["calling_ae"] == "MODALITY"
    series = site.node.json("show", job["series_instance_uid"])
    assert [j["id"] for j in series["jobs"]] == [job["id"]]
    one = site.node.json("show", str(job["id"]))
    assert {r["kind"] for r in one["results"]} == {"sr", "overlay"}
    assert [h["to"] for h in one["history"]] == ["queued", "running", "succeeded"]
    assert one["summary"]["model_used"] == "demo"
    assert "succeeded" in site.node.command("show", str(job["id"]))
    site.node.command("show", "1.2.3.4.5", status=1)


def test_stats_count(site: Site, job: dict[str, Any]) -> None:
    numbers = site.node.json("stats")
    assert numbers["jobs"]["succeeded"] == 1
    assert numbers["deliveries"]["pacs"]["sent"] == len(job["results"])
    assert "free" in site.node.command("stats")


def test_check_finds_everything_in_order(site: Site) -> None:
    findings = site.node.json("check")
    assert all(finding["ok"] for finding in findings), findings
    assert {f["subject"] for f in findings} >= {"configuration", "database", "engine cxr", "destination pacs"}


def test_reprocess_cancel_prioritize_and_retry(site: Site, job: dict[str, Any]) -> None:
    site.node.command("reprocess", job["study_instance_uid"])
    jobs = site.node.wait_for_jobs(2)
    assert [j["state"] for j in jobs] == ["superseded", "succeeded"]
    site.node.command("cancel", str(jobs[1]["id"]), status=1)
    site.node.command("retry", str(jobs[1]["id"]), status=1)
    site.node.command("reprocess", "1.2.3", status=1)


def test_explain_route_names_the_condition(site: Site, tmp_path: Path) -> None:
    write_radiograph(tmp_path / "hip.dcm", 1, BodyPartExamined="HIP")
    (series,) = site.node.json("explain-route", str(tmp_path / "hip.dcm"))
    (rule,) = series["rules"]
    assert not rule["takes"]
    assert "HIP" in rule["reason"]
    write_radiograph(tmp_path / "hip.dcm", 1)
    (series,) = site.node.json("explain-route", str(tmp_path / "hip.dcm"))
    assert series["rules"][0]["takes"]


def test_infer_gives_what_the_node_gives(site: Site, job: dict[str, Any], tmp_path: Path) -> None:
    (instance,) = site.node.json("show", job["study_instance_uid"])["series"][0]["instances"]
    (tmp_path / "bad.dcm").write_bytes(b"no DICOM")
    write_radiograph(tmp_path / "lateral.dcm", 1, ViewPosition="LL")
    file = site.node.data_dir / instance["file"]
    out = tmp_path / "out"
    inputs = (str(file), str(tmp_path / "bad.dcm"), str(tmp_path / "lateral.dcm"))
    cases = site.node.json("infer", *inputs, "--engine", "cxr", "--out", str(out))
    assert [list(case) for case in cases] == [CASE_KEYS] * 3
    done, skipped, strange = cases
    assert "frontal" in skipped["skipped"]
    assert (strange["input"], strange["skipped"]) == (inputs[1], "it is no DICOM, PNG or JPEG file")
    assert done["skipped"] is None
    assert len(done["labels"]) == len(done["probabilities"]) == len(done["logits"])
    assert all(Path(path).exists() for path in done["files"])
    header, *rows = (out / "results.csv").read_text().splitlines()
    assert header == (
        "input,engine,model_version,label,probability,calibrated_probability,ensemble_std,disclaimer,skipped"
    )
    assert {len(row) for row in csv.reader(rows)} == {9}
    site.node.command("infer", str(file), "--engine", "nothing", "--out", str(out), status=2)


def test_models_are_listed_and_verified(site: Site) -> None:
    assert {model["name"] for model in site.node.json("models", "list")} == {"demo"}
    assert all(verdict["ok"] for verdict in site.node.json("models", "verify"))


def test_send_and_echo(site: Site, tmp_path: Path) -> None:
    write_radiograph(tmp_path / "a.dcm", 1)
    write_radiograph(tmp_path / "b.dcm", 2)
    (tmp_path / "notes.txt").write_text("no DICOM")
    with Storescp(tmp_path / "got", "GOT") as peer:
        address = f"GOT@127.0.0.1:{peer.port}"
        done = _run("send", str(tmp_path), "--to", address)
        assert "2 sent, 0 failed, 1 files were no DICOM" in done.stdout
        assert len(peer.files()) == 2
        assert "answers" in _run("echo", address).stdout
    assert _run("echo", address, check=False).returncode == 1
    assert _run("send", str(tmp_path), "--to", "nonsense", check=False).returncode == 2


def test_wrong_configuration_names_file_key_and_nearest_name(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[node]\nprot = 11112\n")
    done = _run("queue", "-c", str(file), check=False)
    assert done.returncode == 2
    assert str(file) in done.stderr.replace("\n", "")
    assert "node.prot" in done.stderr
    assert "port" in done.stderr


def test_health_readiness_and_metrics(site: Site, job: dict[str, Any]) -> None:
    root = f"http://127.0.0.1:{site.node.web_port}"
    assert httpx.get(f"{root}/healthz").json() == {"status": "ok"}
    assert httpx.get(f"{root}/readyz").json() == {"database": "ok", "dicom": "ok", "disk": "ok"}
    metrics = httpx.get(f"{root}/metrics").text
    assert 'overread_jobs{state="succeeded"}' in metrics
    assert 'overread_deliveries{destination="pacs",state="sent"}' in metrics
    assert "overread_instances_received_total" in metrics
    assert (
        'overread_stage_seconds{quantile="0.5",stage="running"}' in metrics
        or "overread_stage_seconds{" in metrics
    )


def test_absent_model_makes_jobs_wait_until_it_is_there(tmp_path: Path) -> None:
    with Node(tmp_path / "node", model="later", receivers=1) as node:
        write_radiograph(tmp_path / "study.dcm", 1)
        send(node.port, tmp_path / "study.dcm")
        wait_until(lambda: [j["state"] for j in node.jobs()] == ["waiting"], 20, "the job waits")
        assert "overread models pull later" in node.jobs()[0]["reason"]
        demo = Path(__file__).resolve().parents[2] / "inference" / "demo" / "chest_xray"
        (tmp_path / "later.safetensors").write_bytes((demo / "weights.safetensors").read_bytes())
        (tmp_path / "later.json").write_bytes((demo / "card.json").read_bytes())
        node.command("models", "import", str(tmp_path / "later.safetensors"), "--name", "later")
        (job,) = node.wait_for_jobs(1)
        assert job["state"] == "succeeded"


def test_processes_that_read_no_pixels_have_no_decoder(site: Site, job: dict[str, Any]) -> None:
    for role in Role:
        pids = site.node.pids(role.value)
        assert pids
        for pid in pids:
            mapped = Path(f"/proc/{pid}/maps").read_text()
            for library in ("numpy", "gdcm", "openjpeg"):
                assert (f"/{library}" in mapped or f"/_{library}" in mapped) == role.reads_pixels, (
                    role,
                    library,
                )


def test_waiting_threads_of_every_process_sleep(site: Site, job: dict[str, Any]) -> None:
    """A node is always its own busy neighbour: a thread that spins keeps a core from another process."""
    pids = [pid for role in Role for pid in site.node.pids(role.value)]
    (worker,) = site.node.pids("worker")
    readers = [
        int(pid)
        for children in Path(f"/proc/{worker}/task").glob("*/children")
        for pid in children.read_text().split()
    ]
    assert readers
    for pid in (*pids, *readers):
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        assert {b"OMP_WAIT_POLICY=PASSIVE", b"OPENBLAS_NUM_THREADS=1"} <= {*environment}, pid


def test_log_has_no_patient_data(site: Site, job: dict[str, Any]) -> None:
    assert "anary" not in site.node.log


def _run(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "node.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=check,
        cwd=Path(__file__).resolve().parents[2],
    )


def test_json_is_the_only_thing_on_standard_output(site: Site, job: dict[str, Any]) -> None:
    assert json.loads(site.node.command("stats", "--json"))
