"""The configuration: what is read, what is overridden, and every fault by its key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from node.configuration.loading import load
from node.configuration.tables import RangeCondition
from node.errors import ConfigurationError
from tests.peers.certificates import Authority

COMPLETE = """
[node]
ae_title = "SECOND"
port = 11119
[database]
url = "sqlite:///var/x.db"
[completion]
quiet_seconds = 3
[[source]]
name = "ct1"
ae_title = "CT1"
hosts = ["127.0.0.1", "10.1.0.0/16"]
[[destination]]
name = "pacs"
ae_title = "ORTHANC"
host = "127.0.0.1"
port = 4242
[[engine]]
name = "cxr"
kind = "chest_xray"
model = "demo"
[[route]]
name = "chest"
match = { Modality = ["CR", "DX"], BodyPartExamined = "CHEST|THORAX", Rows = { min = 224 }, instances = { max = 5 } }
engines = ["cxr"]
destinations = ["pacs"]
"""


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "config.toml"
    file.write_text(text)
    return file


def faults(tmp_path: Path, text: str, environment: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(write(tmp_path, text), environment or {})
    return str(caught.value)


def test_complete_configuration_is_read(tmp_path: Path) -> None:
    configuration = load(write(tmp_path, COMPLETE), {})
    assert configuration.node.ae_title == "SECOND"
    assert configuration.completion.quiet_seconds == 3.0
    assert configuration.route[0].match["Rows"] == RangeCondition(min=224)
    assert configuration.data_dir == tmp_path / "var"
    assert configuration.database_settings().url == f"sqlite:///{tmp_path}/var/x.db"
    assert configuration.receiver_settings().attributes == {"Modality", "BodyPartExamined", "Rows"}


def test_empty_configuration_has_the_defaults(tmp_path: Path) -> None:
    configuration = load(write(tmp_path, ""), {})
    assert (configuration.node.port, configuration.node.receivers) == (11112, 2)


def test_project_configuration_is_valid() -> None:
    load(Path(__file__).parents[2] / "config.toml", {})


def test_environment_overrides_one_value(tmp_path: Path) -> None:
    environment = {
        "OVERREAD_NODE__PORT": "11200",
        "OVERREAD_NODE__AE_TITLE": "OTHER",
        "OVERREAD_CONFIG": "unused",
    }
    configuration = load(write(tmp_path, COMPLETE), environment)
    assert (configuration.node.port, configuration.node.ae_title) == (11200, "OTHER")


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("OVERREAD_NODE__AE_TITLE", "1234", "1234"),
        ("OVERREAD_NODE__AE_TITLE", "True", "True"),
        ("OVERREAD_NODE__AE_TITLE", '"A B"', "A B"),
        ("OVERREAD_NODE__HOST", "10.1.2.3", "10.1.2.3"),
        ("OVERREAD_NODE__PORT", "104", 104),
        ("OVERREAD_WEB__ENABLED", "False", False),
        ("OVERREAD_WEB__ENABLED", "true", True),
        ("OVERREAD_AUDIT__CA", "1", "1"),
        ("OVERREAD_NODE__PRIVATE_SOP_CLASSES", '["1.2.3"]', ("1.2.3",)),
    ],
)
def test_environment_has_the_type_of_the_key(tmp_path: Path, variable: str, text: str, value: object) -> None:
    configuration = load(write(tmp_path, COMPLETE), {variable: text})
    section, key = variable.removeprefix("OVERREAD_").lower().split("__")
    assert getattr(getattr(configuration, section), key) == value


def test_fault_of_the_environment_names_the_variable(tmp_path: Path) -> None:
    for variable, text, message in (
        ("OVERREAD_NODE__PORT", "eleven", "node.port: input should be a valid integer"),
        ("OVERREAD_NODE__PROT", "11", "node.prot: unknown key; did you mean 'port'?"),
        ("OVERREAD_NOD__PORT", "11", "nod: unknown key; did you mean 'node'?"),
        ("OVERREAD_TLS__CERTIFICATE", "none.pem", "tls.certificate: there is no file"),
    ):
        table = (
            '[tls]\ncertificate = "a"\nkey = "config.toml"\nca = "config.toml"\n' if "TLS" in variable else ""
        )
        assert faults(tmp_path, table, {variable: text}).startswith(f"{variable}: {message}")


def test_single_and_repeated_tables_are_told_apart(tmp_path: Path) -> None:
    assert "engine: there can be several of these: write [[engine]]" in faults(
        tmp_path, '[engine]\nname = "cxr"\n'
    )
    assert "node: there is one of these: write [node]" in faults(tmp_path, "[[node]]\nport = 1\n")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ('device = "gpu"', "engine.0.device: use auto, cpu, cuda or"),
        ("scales = [-5]", "engine.0.scales.0: input should be greater than or equal to 32"),
        ("weights = [1, 2]", "engine.0.weights: there is nothing to weigh: write ensemble"),
        ('ensemble = ["b"]\nweights = [1]', "engine.0.weights: write one number for each of the 2 models"),
        ('ensemble = ["b"]\nweights = [1, 0]', "engine.0.weights.1: input should be greater than 0"),
        (
            "thresholds = { Nodule = { low = 0.5, high = 0.2, critical = 0.8 } }",
            "engine.0.thresholds.Nodule: low, high and critical have to ascend",
        ),
    ],
)
def test_engine_that_cannot_work_is_refused(tmp_path: Path, keys: str, message: str) -> None:
    assert message in faults(tmp_path, COMPLETE.replace('model = "demo"', f'model = "demo"\n{keys}'))


def test_unknown_key_names_file_key_and_nearest(tmp_path: Path) -> None:
    message = faults(tmp_path, '[node]\nae_titel = "X"\n')
    assert "config.toml" in message
    assert "node.ae_titel: unknown key; did you mean 'ae_title'?" in message


def test_unknown_table_names_nearest(tmp_path: Path) -> None:
    assert "databse: unknown key; did you mean 'database'?" in faults(tmp_path, "[databse]\n")


def test_unknown_key_in_a_list_of_tables_names_its_place(tmp_path: Path) -> None:
    message = faults(tmp_path, COMPLETE.replace('model = "demo"', 'modle = "demo"'))
    assert "engine.0.modle: unknown key; did you mean 'model'?" in message


def test_all_faults_are_reported_together(tmp_path: Path) -> None:
    message = faults(tmp_path, '[node]\nport = "eleven"\nreceivers = 0\n[completion]\nquiet_seconds = -1\n')
    for key in ("node.port", "node.receivers", "completion.quiet_seconds"):
        assert f"{key}: " in message


def test_number_as_text_is_a_wrong_type(tmp_path: Path) -> None:
    assert "node.port" in faults(tmp_path, '[node]\nport = "11112"\n')


def test_route_to_unknown_engine_and_destination_names_nearest(tmp_path: Path) -> None:
    message = faults(
        tmp_path, COMPLETE.replace('engines = ["cxr"]', 'engines = ["cxrr"]').replace('["pacs"]', '["pax"]')
    )
    assert "route.0.engines: there is no engine 'cxrr'; did you mean 'cxr'?" in message
    assert "route.0.destinations: there is no destination 'pax'; did you mean 'pacs'?" in message
    message = faults(tmp_path, COMPLETE.replace('engines = ["cxr"]', 'engines = ["zzz"]'))
    assert "route.0.engines: there is no engine 'zzz'; there is cxr" in message


def test_unknown_dicom_keyword_in_a_rule_names_nearest(tmp_path: Path) -> None:
    message = faults(tmp_path, COMPLETE.replace("BodyPartExamined", "BodyPartExamind"))
    assert "'BodyPartExamind' is no DICOM keyword; did you mean 'BodyPartExamined'?" in message


@pytest.mark.parametrize("weight", ["0", "-1.0", "inf", "nan"])
def test_weight_of_a_rule_is_a_positive_number(tmp_path: Path, weight: str) -> None:
    assert "route.0.weight: input should be" in faults(tmp_path, COMPLETE + f"weight = {weight}\n")


def test_wrong_condition_says_what_is_allowed(tmp_path: Path) -> None:
    message = faults(tmp_path, COMPLETE.replace("{ min = 224 }", "{ mim = 224 }"))
    assert "route.0.match.Rows: use a list, a regular expression, {min=, max=} or {absent=true}" in message


def test_broken_regular_expression_is_refused(tmp_path: Path) -> None:
    assert "not a regular expression" in faults(tmp_path, COMPLETE.replace("CHEST|THORAX", "CHEST("))


def test_names_are_used_once(tmp_path: Path) -> None:
    doubled = COMPLETE + '[[destination]]\nname = "pacs"\nae_title = "B"\nhost = "h"\nport = 1\n'
    assert "destination.1.name: the name 'pacs' is used twice" in faults(tmp_path, doubled)


def test_missing_file_says_how_to_name_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="OVERREAD_CONFIG"):
        load(tmp_path / "nothing.toml", {})


def test_tls_that_cannot_work_is_refused_at_once(tmp_path: Path) -> None:
    issued = Authority(tmp_path).issue("node")
    table = f'[tls]\ncertificate = "{issued.certificate.name}"\nkey = "{issued.key.name}"\n'
    assert "tls.ca: name the CA" in faults(tmp_path, table)
    complete = table + 'ca = "authority.pem"\n'
    settings = load(write(tmp_path, complete), {}).receiver_settings().tls
    assert settings is not None and settings.port is None
    assert "tls.key: there is no file" in faults(tmp_path, complete.replace("node.key", "none.key"))
    other = complete.replace("node.key", "authority.key")
    assert "tls.certificate: certificate" in faults(tmp_path, other)
    assert "tls.port: choose another port than node.port" in faults(tmp_path, complete + "port = 11112\n")
    assert "destination.0.tls: there is no [tls]" in faults(
        tmp_path, '[[destination]]\nname = "pacs"\nae_title = "PACS"\nhost = "pacs"\nport = 104\ntls = true\n'
    )


def test_limits_of_reading(tmp_path: Path) -> None:
    limits = load(write(tmp_path, COMPLETE), {}).reader_limits()
    assert (limits.memory_bytes, limits.seconds) == (4_000_000_000, 60.0)
    text = COMPLETE + '[reader]\nmemory = "2GB"\nseconds = 5\n'
    limits = load(write(tmp_path, text), {}).reader_limits()
    assert (limits.memory_bytes, limits.seconds) == (2_000_000_000, 5.0)
    assert "reader.memory" in faults(tmp_path, COMPLETE + '[reader]\nmemory = "100MB"\n')


def test_compression_of_overlays(tmp_path: Path) -> None:
    assert load(write(tmp_path, COMPLETE), {}).overlay.compression == "none"
    text = COMPLETE + '[overlay]\ncompression = "jpeg"\n'
    assert load(write(tmp_path, text), {}).overlay.compression == "jpeg"
    assert "overlay.compression" in faults(tmp_path, COMPLETE + '[overlay]\ncompression = "png"\n')


def test_ensemble_of_models_with_other_findings_is_refused(tmp_path: Path) -> None:
    store = tmp_path / "var" / "models"
    for name, label in (("a", "Nodule"), ("b", "Mass")):
        (store / name).mkdir(parents=True)
        card = {
            "name": name,
            "version": "1",
            "kind": "chest_xray",
            "manufacturer": "tests",
            "licence": "none",
            "origin": "tests",
            "sha256": "0" * 64,
            "input_size": 224,
            "architecture": {"family": "densenet"},
            "labels": [{"name": label}],
        }
        (store / name / "card.json").write_text(json.dumps(card))
        (store / name / "weights.safetensors").touch()
    text = COMPLETE.replace('model = "demo"', 'model = "a"\nensemble = ["b"]')
    assert "engine.0.ensemble: models 'a' and 'b' have different labels: mass, nodule" in faults(
        tmp_path, text
    )


def test_table_of_a_plug_in_runs_none_of_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its keys are handed over as written: the engine checks them when it is loaded."""
    monkeypatch.setattr("node.configuration.engines.registered_kinds", lambda: ("theirs",))
    monkeypatch.setattr("node.configuration.engines.engine_kinds", lambda: ("chest_xray", "theirs"))
    monkeypatch.setattr(
        "node.configuration.engines.engine_class", lambda kind: pytest.fail(f"{kind} was imported")
    )
    text = '[[engine]]\nname = "x"\nkind = "theirs"\nmodel = "m"\nedge = 3\noptions = { way = "fast" }\n'
    configuration = load(write(tmp_path, text))
    assert configuration.engine_settings("x").options == {"edge": 3, "way": "fast"}
