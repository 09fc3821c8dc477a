"""Signatures of versions, with keys that the tests make."""

import base64
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from releases import flip_byte, register, registered_folder
from training import release, translate
from training.core.files import sha256_file, write_json
from training.registry import lineage, promotion, signature
from training.registry import versions as registry
from training.registry.references import model_files, registered_files
from training.registry.signature import SignatureError
from training.storage.store import Manifest
from training.tracking import client as tracking

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),  # MLflow's own
    pytest.mark.filterwarnings("ignore:.*type hints? :UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # MLflow leaves SQLite pools open
]


def write_keys(folder: Path, name: str, private: Any = None, password: bytes = b"") -> Path:
    """NAME.pem and NAME.pub; returns the path of the former."""
    private = private or ec.generate_private_key(ec.SECP256R1())
    cipher = (
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption()
    )
    key = folder / f"{name}.pem"
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    key.write_bytes(private.private_bytes(pem, pkcs8, cipher))
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    key.with_suffix(".pub").write_bytes(private.public_key().public_bytes(pem, spki))
    return key


@pytest.fixture
def key(release_folder: Path) -> Path:
    return write_keys(release_folder, "ours")


@pytest.fixture
def signed(binary: Path, key: Path) -> Path:
    """The public key with which stargan/1 is signed."""
    register(binary)
    release.main(["sign", "stargan/1", "--key", str(key)])
    return key.with_suffix(".pub")


def test_a_signed_version_verifies_with_its_key(
    signed: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """With --key, with the setting, with neither; a copy of the verified files can be written."""
    capsys.readouterr()
    copy = tmp_path / "copy"
    release.main(["verify", "stargan/1", "--key", str(signed), "--out", str(copy)])
    assert f"note: signed with the key of {signed}" in capsys.readouterr().out
    assert lineage.digests(copy) == lineage.digests(registered_folder())
    with pytest.raises(ValueError, match="copy exists; name a new folder"):
        release.main(["verify", "stargan/1", "--out", str(copy)])
    release.main(["verify", "stargan/1"])
    assert "signed, but the signature was not checked" in capsys.readouterr().out


def test_a_version_that_is_not_signed_says_so(
    binary: Path, capsys: pytest.CaptureFixture[str], key: Path
) -> None:
    register(binary)
    release.main(["verify", "stargan/1"])
    assert "note: not signed" in capsys.readouterr().out
    with pytest.raises(
        SignatureError, match=r"stargan version 1: not signed; .*sign stargan/1 --key"
    ):
        release.main(["verify", "stargan/1", "--key", str(key.with_suffix(".pub"))])


def test_another_key_is_refused(signed: Path) -> None:
    other = write_keys(signed.parent, "theirs").with_suffix(".pub")
    with pytest.raises(SignatureError, match=r"not signed by the owner of .*theirs\.pub: Key mism"):
        lineage.verify("stargan/1", key=other)
    api, text = tracking.client(), registry.version("stargan/1").tags["signature"]
    bundle = json.loads(text)
    del bundle["verificationMaterial"]["publicKey"]["hint"]  # which is not signed
    api.set_model_version_tag("stargan", "1", "signature", json.dumps(bundle))
    with pytest.raises(SignatureError, match="the signature is not by this key"):
        lineage.verify("stargan/1", key=other)


def forged(folder: Path) -> None:
    """Change a weight, the record and the version's tags, as whoever can write MLflow may."""
    flip_byte(folder / "artifacts/model/ema/G.safetensors")
    record = json.loads((folder / lineage.RECORD).read_text())
    record["files"] |= lineage.digests(folder)
    write_json(folder / lineage.RECORD, record)
    tags = {"lineage": sha256_file(folder / lineage.RECORD)}
    for name, value in tags.items():
        tracking.client().set_model_version_tag("stargan", "1", name, value)


def test_files_record_and_tags_replaced_together_are_refused(signed: Path) -> None:
    """Without a key nobody can notice; with it the changed files are named."""
    forged(registered_folder())
    lineage.verify("stargan/1")
    says = r"not signed by the owner of .*(ema/G.safetensors|lineage.json)"
    with pytest.raises(SignatureError, match=says):
        lineage.verify("stargan/1", key=signed)


def test_a_signature_is_of_one_version(signed: Path, binary: Path) -> None:
    """The files, record and signature of version 1 in version 2's place."""
    register(binary, seed=1)
    api, first = tracking.client(), registry.version("stargan/1")
    second = next(
        f for f in Path("runs/mlartifacts/models").glob("m-*/artifacts")
        if first.source.split("/")[-1] not in str(f)
    )  # fmt: skip
    first_folder = registry.place(first)
    assert first_folder is not None
    for path in [p for p in second.rglob("*") if p.is_file()]:
        path.write_bytes((first_folder / path.relative_to(second)).read_bytes())
    for tag in ("lineage", "signature"):
        api.set_model_version_tag("stargan", "2", tag, first.tags[tag])
    lineage.verify("stargan/2")
    with pytest.raises(SignatureError, match="it is the signature of stargan version 1"):
        lineage.verify("stargan/2", key=signed)


def test_a_file_that_model_signing_leaves_out_by_default_is_signed_too(signed: Path) -> None:
    """It ignores .gitattributes; with record and tag replaced, only the signature can tell."""
    (registered_folder() / ".gitattributes").write_text("x")
    forged(registered_folder())
    with pytest.raises(SignatureError, match=r"Extra files found .*\.gitattributes"):
        lineage.verify("stargan/1", key=signed)


def test_a_signature_that_leaves_files_out_is_refused(signed: Path, key: Path) -> None:
    """Made by the key's owner with the library's own options."""
    from model_signing import hashing, signing

    folder = registered_folder().absolute()
    config = signing.Config().use_elliptic_key_signer(private_key=key)
    partial = hashing.Config().set_ignored_paths(paths=["README.md"])
    named = folder.parent / "stargan version 1"
    folder.rename(named)
    config.set_hashing_config(partial).sign(named, signed.parent / "partial.json")
    named.rename(folder)
    text = (signed.parent / "partial.json").read_text()
    tracking.client().set_model_version_tag("stargan", "1", "signature", text)
    with pytest.raises(SignatureError, match=r"it leaves out README\.md"):
        lineage.verify("stargan/1", key=signed)


@pytest.fixture
def uses(binary: Path, tmp_path: Path) -> dict[str, Callable[[], object]]:
    """Everything that uses a registered version, by name."""
    judge = binary.parent / "judge.json"
    Manifest.build("judge", {}, {"recipe": "1", "dataset": "", "accuracy": {}}).write(judge)
    verdict, version = binary.parent / "verdict.json", binary.parent / "version-0.json"
    return {
        "promotion": lambda: promotion.promote(version, binary, judge, "", "", verdict),
        "an override": lambda: promotion.promote(version, binary, judge, "", "board", verdict),
        "translation": lambda: translate.main(["stargan/1", "face.png", "out.png", "Male"]),
        "comparison and fine-tuning": lambda: model_files("stargan/1"),
        "loading": lambda: registered_files("stargan/1"),
        "verification": lambda: lineage.verify("stargan/1"),
    }


def test_the_setting_refuses_a_version_that_is_not_signed(
    uses: dict[str, Callable[[], object]], binary: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything of it is used: promotion, override, champion, rollback, edits, comparison."""
    register(binary)
    Image.new("RGB", (32, 32)).save("face.png")
    monkeypatch.setenv("SIGNING_PUBLIC_KEY", str(key.with_suffix(".pub")))
    for use in uses.values():
        with pytest.raises(SignatureError, match="stargan version 1: not signed"):
            use()
    registry.move("stargan", None, "1", "promote", "by hand")
    with pytest.raises(SignatureError, match="not signed"):
        uses["promotion"]()  # it is the champion
    register(binary, seed=1)
    registry.move("stargan", "1", "2", "promote", "by hand")
    with pytest.raises(SignatureError, match="stargan version 1: not signed"):
        promotion.rollback("stargan", "back")
    assert registry.champion("stargan") == "2"
    release.main(["sign", "stargan/1", "--key", str(key)])
    assert promotion.rollback("stargan", "back") == "1"
    assert uses["promotion"]()["reason"].startswith("version 1 is champion since")  # type: ignore[index]


def test_a_champion_that_is_not_signed_is_replaced_only_with_a_reason(
    uses: dict[str, Callable[[], object]], binary: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a version that is signed."""
    register(binary, seed=1)
    registry.move("stargan", None, "1", "promote", "before the setting")
    register(binary)
    release.main(["sign", "stargan/2", "--key", str(key)])
    monkeypatch.setenv("SIGNING_PUBLIC_KEY", str(key.with_suffix(".pub")))
    with pytest.raises(SignatureError, match="stargan version 1: not signed"):
        uses["promotion"]()
    assert registry.champion("stargan") == "1"
    reason = uses["an override"]()["reason"]  # type: ignore[index]
    assert "the champion cannot be compared: stargan version 1: not signed" in reason
    assert registry.champion("stargan") == "2"


def test_the_setting_takes_the_keys_text_too(
    signed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a cluster's config map holds it."""
    monkeypatch.setenv("SIGNING_PUBLIC_KEY", signed.read_text())
    release.main(["verify", "stargan/1"])
    assert "note: signed with the key of SIGNING_PUBLIC_KEY" in capsys.readouterr().out
    other = write_keys(signed.parent, "theirs").with_suffix(".pub")
    monkeypatch.setenv("SIGNING_PUBLIC_KEY", other.read_text())
    with pytest.raises(SignatureError, match="by the owner of SIGNING_PUBLIC_KEY: Key mis"):
        registered_files("stargan/1")
    monkeypatch.setenv("SIGNING_PUBLIC_KEY", "-----BEGIN PUBLIC KEY-----x")
    with pytest.raises(ValueError, match=r"^SIGNING_PUBLIC_KEY: not a usable public key"):
        registered_files("stargan/1")


def test_steps_elsewhere_get_the_setting() -> None:
    """Otherwise it would not hold in a container or on a cluster, and nobody would notice."""
    from pipelines.local.containers import environment
    from pipelines.resources import ADDRESSES

    assert "SIGNING_PUBLIC_KEY" in ADDRESSES
    assert environment({"SIGNING_PUBLIC_KEY": "x", "HOME": "y"}) == {"SIGNING_PUBLIC_KEY": "x"}


def test_signing_with_another_key_than_the_required_one_is_refused(
    binary: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(binary)
    monkeypatch.setenv("SIGNING_PUBLIC_KEY", str(key.with_suffix(".pub")))
    theirs = write_keys(binary.parent, "theirs")
    with pytest.raises(SignatureError, match="Key mismatch"):
        release.main(["sign", "stargan/1", "--key", str(theirs)])
    assert "signature" not in registry.version("stargan/1").tags


def test_an_altered_version_is_not_signed(binary: Path, key: Path) -> None:
    register(binary)
    flip_byte(registered_folder() / "README.md")
    with pytest.raises(lineage.LineageError, match=r"file altered: README\.md"):
        release.main(["sign", "stargan/1", "--key", str(key)])


def test_keys_that_cannot_be_used_are_refused_by_name(
    signed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = signed.parent
    bad = {
        "rsa": rsa.generate_private_key(65537, 2048),
        "ed25519": ed25519.Ed25519PrivateKey.generate(),
        "koblitz": ec.generate_private_key(ec.SECP256K1()),
    }
    for name, private in bad.items():
        path = write_keys(folder, name, private)
        with pytest.raises(ValueError, match=rf"{name}\.pem: not a usable private key"):
            release.main(["sign", "stargan/1", "--key", str(path)])
        with pytest.raises(ValueError, match=rf"{name}\.pub: not a usable public key"):
            lineage.verify("stargan/1", key=path.with_suffix(".pub"))
    (folder / "text.pem").write_text("no key")
    for say in (lambda p: lineage.verify("stargan/1", key=p), lambda p: sign(p)):
        with pytest.raises(ValueError, match=r"text\.pem: not a usable"):
            say(folder / "text.pem")
        with pytest.raises(OSError, match=r"nowhere\.pem"):
            say(folder / "nowhere.pem")
    locked = write_keys(folder, "locked", password=b"secret")
    with pytest.raises(ValueError, match=r"locked\.pem: not a usable .*SIGNING_KEY_PASSWORD"):
        sign(locked)
    monkeypatch.setenv("SIGNING_KEY_PASSWORD", "secret")
    sign(locked)
    lineage.verify("stargan/1", key=locked.with_suffix(".pub"))


def sign(key: Path) -> None:
    release.main(["sign", "stargan/1", "--key", str(key)])


def test_without_the_extra_the_command_to_install_it_is_named(
    signed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(
        ValueError, match=r"python -m pip install model-signing==1\.1\.1 pyopenssl$"
    ):
        lineage.verify("stargan/1", key=signed)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=8), inner, max_size=2)
    ),
    max_leaves=4,
)


def spoil(text: str, data: st.DataObject) -> tuple[str, str]:
    """A kind of damage, and the signature with it."""
    kind = data.draw(st.sampled_from(["field", "cut", "statement", "nested"]))
    if kind == "cut":
        return kind, text[: data.draw(st.integers(0, len(text) - 1))]
    if kind == "nested":
        return kind, "[" * 100_000
    bundle = json.loads(text)
    envelope = bundle["dsseEnvelope"]
    statement = json.loads(base64.b64decode(envelope["payload"]))
    places = [bundle, envelope, envelope["signatures"][0], bundle["verificationMaterial"]]
    if kind == "statement":
        places = [statement, statement["subject"][0], statement["predicate"]]
    place = data.draw(st.sampled_from(places))
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(VALUES)
    if kind == "statement":
        envelope["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    return kind, json.dumps(bundle)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_spoiled_signature_is_refused(signed: Path, data: st.DataObject) -> None:
    """A field with another value, a cut, nonsense: refused, unless nothing signed changed."""
    version = registry.version("stargan/1")
    folder = signed.parent / "stargan version 1"
    if not folder.exists():
        registry.download(version, folder)
    kind, text = spoil(version.tags["signature"], data)
    version = SimpleNamespace(name="stargan", version="1", tags={"signature": text})
    try:
        signature.check(version, folder, signed)
    except SignatureError as error:
        refused = str(error)
    else:
        refused = "stargan version 1: not signed" if kind == "field" else "accepted"
    assert refused.startswith("stargan version 1: not signed")
