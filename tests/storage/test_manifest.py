"""Manifests that somebody has written or changed."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from training.core.entries import check_name
from training.core.files import canonical_json, sha256_bytes
from training.registry import pyfunc
from training.storage.store import Entry, Manifest, open_store
from training.tracking import client as tracking

META = {"model": "stargan", "preset": "", "seed": 0, "images": 8, "dataset": "", "mlflow_run": ""}
ENTRY = {"name": "nets/G.safetensors", "sha256": "0" * 64, "size": 7, "rows": 0}
WHOLE = {"schema": 1, "kind": "model", "entries": [ENTRY], "meta": META, "about": {}}
ODD = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
    | st.sampled_from(["../x", "/etc/passwd", "nets/../../x", "..", "a\\b", "0" * 63 + "/", "\0"])
    | st.lists(st.integers(), max_size=2) | st.dictionaries(st.text(max_size=3), st.none())
)  # fmt: skip
WRITER = settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])


def written(path: Path, content: dict[str, Any]) -> Path:
    """With the digest that its writer would compute."""
    digested = {k: v for k, v in content.items() if k != "about"}
    try:
        digest = sha256_bytes(canonical_json(digested))
    except ValueError:  # NaN
        digest = ""
    path.write_text(json.dumps({**content, "digest": digest}))
    return path


@WRITER
@given(st.data())
def test_a_manifest_is_refused_by_name_or_has_only_safe_names(
    tmp_path: Path, data: st.DataObject
) -> None:
    """One or two fields with another value, or removed; its digest is right."""
    content = json.loads(json.dumps(WHOLE))
    for _ in range(data.draw(st.integers(1, 2))):
        places = [content]
        if isinstance(content.get("entries"), list):
            places += [e for e in content["entries"] if isinstance(e, dict)]
        if isinstance(content.get("meta"), dict):
            places.append(content["meta"])
        place = data.draw(st.sampled_from([p for p in places if p]))
        field = data.draw(st.sampled_from(sorted(place)))
        if data.draw(st.booleans()):
            place[field] = data.draw(ODD)
        else:
            del place[field]
    path = written(tmp_path / "m.json", content)
    try:
        manifest = Manifest.read(path)
    except ValueError as error:
        assert str(path) in str(error)  # noqa: PT017
        return
    for entry in manifest.entries:
        check_name(entry.name)
        assert open_store("file:///store").path(entry.sha256).parent.parent == Path("/store/sha256")
        assert min(entry.size, entry.rows) >= 0


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "null", '{"schema": 1}', "", "{"])
def test_a_file_that_is_no_manifest_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(ValueError, match=r"m\.json: "):
        Manifest.read(tmp_path / "m.json")


def test_deep_metadata_is_refused_by_name(tmp_path: Path) -> None:
    """Too deep for the digest, though not for the parser."""
    text = json.dumps({**WHOLE, "digest": ""}).replace(
        '"seed": 0', '"seed": ' + "[" * 900 + "]" * 900
    )
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(ValueError, match=r"m\.json: "):
        Manifest.read(tmp_path / "m.json")


def test_a_reference_to_a_path_is_refused() -> None:
    for text in ("../../etc/passwd 7", "0" * 63 + " 7", "0" * 64, "0" * 64 + " -1"):
        with pytest.raises(ValueError, match="is not <sha256> <size>"):
            Entry.parse("scores", text)


EVIL = "../escaped.txt"


def test_names_that_lead_out_are_refused_where_files_are_written(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registered model's folder and a run's files, also for callers without a manifest."""
    (tmp_path / "x").write_text("x")

    class Api:
        def log_artifacts(self, run: str, folder: str) -> None:
            raise AssertionError(folder)

    monkeypatch.setattr(tracking, "client", Api)
    with pytest.raises(ValueError, match="not the relative name of a file"):
        tracking.log_results("run", {}, {EVIL: tmp_path / "x"})
    from training.data.labels import LabelSet, LabelSpace

    space = LabelSpace((LabelSet("a", "binary", ("x", "y")),))
    with pytest.raises(ValueError, match="not the relative name of a file"):
        pyfunc.save(tmp_path / "version", {EVIL: tmp_path / "x"}, space, 16, {})
    assert not [*tmp_path.rglob("escaped.txt")]
