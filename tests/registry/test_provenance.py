"""A version's provenance statement and bill of materials, against its own files and records."""

import base64
import copy
import hashlib
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from releases import IDENTITY, MD5, register, registered_folder
from training import release
from training.registry import versions as registry
from training.registry.bom import _metrics
from training.storage.store import Manifest

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),  # MLflow's own
    pytest.mark.filterwarnings("ignore:.*type hints? :UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # MLflow leaves SQLite pools open
]


@pytest.fixture
def files(release_folder: Path, binary: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of a registered version."""
    monkeypatch.setenv("SOURCE_URL", "https://example.org/code.git")
    register(binary)
    return registered_folder()


def made(command: str, *options: str) -> dict[str, Any]:
    out = Path("out") / f"{command}.json"
    release.main([command, "stargan/1", "--out", str(out), *options])
    values: dict[str, Any] = json.loads(out.read_text())
    return values


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*") if path.is_file() and path.name != registry.META
    }  # fmt: skip


def check_statement(values: dict[str, Any]) -> None:
    """By in-toto's own protobufs, which refuse unknown fields, and its check of required ones."""
    parsed = json_format.ParseDict(values, statement_pb2.Statement())
    Statement.copy_from_pb(parsed).validate()
    predicate = provenance_pb2.Provenance()
    json_format.ParseDict(values["predicate"], predicate)
    assert predicate.build_definition.build_type
    assert predicate.run_details.builder.id
    assert predicate.run_details.metadata.started_on.seconds > 1.7e9
    assert isinstance(predicate.build_definition.external_parameters, Struct)


def test_a_statement_has_every_file_and_what_it_was_made_from(files: Path, binary: Path) -> None:
    values = made("provenance")
    check_statement(values)
    subjects = {one["name"]: one["digest"]["sha256"] for one in values["subject"]}
    assert subjects == digests(files)
    build, run = (values["predicate"][part] for part in ("buildDefinition", "runDetails"))
    config = json.loads((files / "artifacts/model/config.json").read_text())
    assert build["externalParameters"]["config"] == config
    tags = registry.version("stargan/1").tags
    assert build["internalParameters"]["content"] == tags["content"]
    assert build["internalParameters"]["evaluation"] == IDENTITY
    needed = {one["name"]: one for one in build["resolvedDependencies"]}
    assert {name: [*one["digest"].values()] for name, one in needed.items()} == {
        "code": [tags["git_commit"]],
        "requirements.lock": [subjects["release/requirements.lock"]],
        "raw data": [MD5.removesuffix(".dir")],
        "dataset manifest": [Manifest.read(binary).digest],
        "judge manifest": ["a" * 64],
    }
    assert needed["code"]["uri"] == f"git+https://example.org/code.git@{tags['git_commit']}"
    assert run["metadata"]["invocationId"] == "run-1"
    (pipeline,) = run["byproducts"]
    assert pipeline["uri"] == f"runs:/{registry.version('stargan/1').run_id}"

    broken = copy.deepcopy(values)
    broken["predicate"]["buildDefinition"]["commands"] = ["make"]
    with pytest.raises(json_format.ParseError, match="commands"):
        check_statement(broken)


def test_a_signed_statement_verifies_with_the_public_key_only(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By securesystemslib, whose DSSE is another implementation."""
    keys = []
    for name, curve in (("mine", "prime256v1"), ("other", "secp384r1")):
        private = tmp_path / f"{name}.pem"
        openssl = ["openssl", "ecparam", "-name", curve, "-genkey", "-noout", "-out", str(private)]
        subprocess.run(openssl, check=True, capture_output=True)
        public = subprocess.run(
            ["openssl", "ec", "-in", str(private), "-pubout"], check=True, capture_output=True
        ).stdout
        values = made("provenance", "--key", str(private))
        assert capsys.readouterr().out.endswith("signed, in a DSSE envelope\n")
        (signature,) = values["signatures"]
        key = SSlibKey.from_dict(signature["keyid"], {
            "keytype": "ecdsa", "scheme": {"mine": "ecdsa-sha2-nistp256",
                                           "other": "ecdsa-sha2-nistp384"}[name],
            "keyval": {"public": public.decode()},
        })  # fmt: skip
        keys.append(key)
        Envelope.from_dict(copy.deepcopy(values)).verify([key], 1)
        check_statement(json.loads(base64.b64decode(values["payload"])))
        altered = copy.deepcopy(values)
        altered["payload"] = base64.b64encode(b"{}").decode()
        with pytest.raises(VerificationError):
            Envelope.from_dict(altered).verify([key], 1)
    release.main(["sign", "stargan/1", "--key", str(private)])
    made("provenance")
    assert "not signed, though the version is; --key" in capsys.readouterr().out
    (tmp_path / "text").write_text("no key")
    with pytest.raises(ValueError, match=r"text: not a usable private key.*openssl ecparam"):
        made("provenance", "--key", str(tmp_path / "text"))


def strictly_valid(values: dict[str, Any]) -> bool:
    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(values)) is None


def test_a_bill_of_materials_has_the_card_the_data_and_the_packages(files: Path) -> None:
    values = made("bom")
    assert strictly_valid(values)
    model = values["metadata"]["component"]
    assert (model["type"], model["name"], model["version"]) == (
        "machine-learning-model", "stargan", "1",
    )  # fmt: skip
    parts = {part["bom-ref"]: part for part in values["components"]}
    weights = {name: digest for name, digest in digests(files).items()
               if name.startswith("artifacts/model/")}  # fmt: skip
    assert weights == {name: part["hashes"][0]["content"] for name, part in parts.items()
                       if part["type"] == "file"}  # fmt: skip
    record = json.loads((files / "release/lineage.json").read_text())
    assert parts["dataset"]["hashes"] == [{"alg": "SHA-256", "content": record["dataset"]}]
    assert parts["raw data"]["hashes"] == [{"alg": "MD5", "content": MD5.removesuffix(".dir")}]
    names = ("release/requirements.lock", "requirements.txt")
    text = "\n".join((files / name).read_text() for name in names)
    locked = re.findall(r"^(\S+==\S+)", text, re.MULTILINE)
    assert {name for name, part in parts.items() if part["type"] == "library"} == set(locked)
    assert parts[next(one for one in locked if one.startswith("torch=="))]["purl"].startswith(
        "pkg:pypi/torch@"
    )
    (root,) = [one for one in values["dependencies"] if one["ref"] == "stargan/1"]
    assert set(root["dependsOn"]) == parts.keys()

    card = model["modelCard"]
    config = json.loads((files / "artifacts/model/config.json").read_text())
    assert card["modelParameters"]["modelArchitecture"] == config["name"]
    assert {one["ref"] for one in card["modelParameters"]["datasets"]} == {"raw data", "dataset"}
    metrics = json.loads((files / "release/metrics.json").read_text())
    shown = card["quantitativeAnalysis"]["performanceMetrics"]
    assert {one["type"]: float(one["value"]) for one in shown} == metrics
    text = " ".join((files / "README.md").read_text().split())
    limits = card["considerations"]["technicalLimitations"]
    assert len(limits) == 4
    assert all(f"- {limit}" in text for limit in limits)
    assert card["considerations"]["useCases"][0] in text

    assert made("bom") == values  # the same version gives the same document
    broken = copy.deepcopy(values)
    broken["metadata"]["component"]["modelCard"]["accuracy"] = 1
    assert not strictly_valid(broken)


def test_an_interval_belongs_to_its_metric() -> None:
    values = {"success_mean": 0.5, "success_low": 0.4, "success_high": 0.6, "kid_low": 1.0}
    first, second = _metrics(values)
    assert first == {"type": "success_mean", "value": "0.5",
                     "confidenceInterval": {"lowerBound": "0.4", "upperBound": "0.6"}}  # fmt: skip
    assert second == {"type": "kid_low", "value": "1.0"}


def test_an_altered_version_gets_neither(files: Path) -> None:
    path = files / "artifacts/model/config.json"
    path.write_bytes(path.read_bytes() + b" ")
    for command in ("provenance", "bom"):
        with pytest.raises(ValueError, match="config altered"):
            made(command)
        assert not Path("out").exists()
