"""C2PA manifests: signed with a chain made here, read and verified by the library's own reader."""

import datetime
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import c2pa
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from PIL import Image

import clips
from jsonserver import answering
from savedmodel import saved
from training import translate
from training.core.files import sha256_file
from training.data.labels import LabelSet, LabelSpace
from training.inference.credentials import SETTINGS, TYPES, check_suffixes, signer_of
from training.inference.marks import stated_sources

SPACE = LabelSpace((LabelSet("celeba", "binary", ("Black_Hair", "Male"), ()),))
PEM = serialization.Encoding.PEM
NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
EDITED = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"


def name(text: str) -> x509.Name:
    return x509.Name([
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Tests"),
        x509.NameAttribute(NameOID.COMMON_NAME, text),
    ])  # fmt: skip


def certificate(
    subject: str, key: Any, issuer: str, issuer_key: Any, *, ca: bool = False, until: float = 20,
    usage: Any = ExtendedKeyUsageOID.EMAIL_PROTECTION,
) -> x509.Certificate:  # fmt: skip
    made = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - 40 * DAY)
        .not_valid_after(NOW + until * DAY)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False), critical=True
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
    )
    if not ca:
        made = made.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    return made.sign(issuer_key, hashes.SHA256())


CA_KEY = ec.generate_private_key(ec.SECP256R1())
CA = certificate("root", CA_KEY, "root", CA_KEY, ca=True)


def write(folder: Path, key: Any, *chain: x509.Certificate, password: bytes = b"") -> list[str]:
    """The options of a chain and a key in files."""
    folder.mkdir(exist_ok=True)
    (folder / "cert.pem").write_bytes(b"".join(one.public_bytes(PEM) for one in chain))
    locked = serialization.BestAvailableEncryption(password) if password else None
    text = key.private_bytes(
        PEM, serialization.PrivateFormat.PKCS8, locked or serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(text)
    return ["--c2pa-cert", str(folder / "cert.pem"), "--c2pa-key", str(folder / "key.pem")]


def chain_of(key: Any, **settings: Any) -> list[x509.Certificate]:
    return [certificate("signer", key, "root", CA_KEY, **settings), CA]


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The active manifest and the whole report, trusting the tests' root only."""
    trust = {"trust": {"trust_anchors": CA.public_bytes(PEM).decode()}}
    verify = {"verify": {**SETTINGS["verify"], "verify_trust": True}}
    context = c2pa.Context(c2pa.Settings.from_dict(trust | verify))
    with c2pa.Reader(path, context=context) as reader:
        report = json.loads(reader.json())
    return report["manifests"][report["active_manifest"]], report


@pytest.fixture
def run(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    files = saved(tmp_path / "model", "stargan", small["stargan"], SPACE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(translate, "registered_files", lambda reference: files)
    monkeypatch.setattr(translate, "pin", lambda reference: "stargan/3")
    for suffix in ("png", "jpg", "bmp", "webp"):
        pixels = np.random.RandomState(1).randint(0, 256, (24, 24, 3), np.uint8)
        Image.fromarray(pixels).save(f"face.{suffix}")
    return lambda *arguments: translate.main(["stargan@champion", *arguments])


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(), rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-256", "P-384", "Ed25519", "RSA"],
)  # fmt: skip
def test_a_signed_picture_is_trusted_and_says_how_it_was_made(
    key: Any, run: Callable, tmp_path: Path
) -> None:
    options = write(tmp_path / "keys", key, *chain_of(key))
    run("face.jpg", "out.png", "Male", *options)
    manifest, report = read(tmp_path / "out.png")
    assert report["validation_state"] == "Trusted"
    [generator] = manifest["claim_generator_info"]
    assert (generator["name"], generator["version"]) == ("stargan-family", "0.2.0")
    [actions] = [one for one in manifest["assertions"] if one["label"] == "c2pa.actions.v2"]
    opened, edited = actions["data"]["actions"]
    assert (opened["action"], edited["action"]) == ("c2pa.opened", "c2pa.edited")
    assert edited["digitalSourceType"] == EDITED
    assert "stargan/3" in edited["softwareAgent"]["name"]
    assert edited["description"].endswith(" Male")
    [ingredient] = manifest["ingredients"]
    assert ingredient["relationship"] == "parentOf"
    assert ingredient["instance_id"] == f"sha256:{sha256_file(tmp_path / 'face.jpg')}"
    assert "thumbnail" not in ingredient
    assert "thumbnail" not in manifest
    assert (tmp_path / "out.png").read_bytes().count(b"XML:com.adobe.xmp") == 1


def test_what_a_manifest_alone_says_of_an_input_is_found(run: Callable, tmp_path: Path) -> None:
    """The file of a manifest without the picture's XMP."""
    key = ec.generate_private_key(ec.SECP256R1())
    options = write(tmp_path / "keys", key, *chain_of(key))
    signer, signed = signer_of(Path(options[1]), Path(options[3])), io.BytesIO()
    assert signer
    face = (tmp_path / "face.png").read_bytes()
    signer.sign(
        io.BytesIO(face), signed, ".png", "m/1", title="x.png",
        source=("face.png", io.BytesIO(face)), sha256="",
    )  # fmt: skip
    assert b"xmpmeta" not in signed.getvalue()
    assert stated_sources(io.BytesIO(signed.getvalue())) == (EDITED.rpartition("/")[2],)


def test_the_pixels_are_those_without_a_signature(run: Callable, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    options = write(tmp_path / "keys", key, *chain_of(key))
    for suffix in ("png", "jpg", "webp", "tif", "avif"):
        run("face.png", f"signed.{suffix}", "Male", *options)
        run("face.png", f"plain.{suffix}", "Male")
        with Image.open(f"signed.{suffix}") as signed, Image.open(f"plain.{suffix}") as plain:
            assert np.array_equal(np.asarray(signed), np.asarray(plain))
        assert read(tmp_path / f"signed.{suffix}")[1]["validation_state"] == "Trusted"


def test_the_manifest_of_the_input_is_kept_and_that_of_an_altered_picture_is_invalid(
    run: Callable, tmp_path: Path
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    options = write(tmp_path / "keys", key, *chain_of(key))
    run("face.png", "once.png", "Male", *options)
    run("once.png", "twice.png", "Black_Hair", *options)
    manifest, report = read(tmp_path / "twice.png")
    assert report["validation_state"] == "Trusted"
    assert len(report["manifests"]) == 2
    assert manifest["ingredients"][0]["active_manifest"] in report["manifests"]
    data = bytearray((tmp_path / "once.png").read_bytes())
    data[-20] ^= 1
    (tmp_path / "once.png").write_bytes(data)
    assert read(tmp_path / "once.png")[1]["validation_state"] == "Invalid"


def test_an_input_of_a_format_without_manifests_is_an_ingredient_too(
    run: Callable, tmp_path: Path
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    run("face.bmp", "out.png", "Male", *write(tmp_path / "keys", key, *chain_of(key)))
    manifest, report = read(tmp_path / "out.png")
    assert report["validation_state"] == "Trusted"
    assert manifest["ingredients"][0]["title"] == "face.bmp"


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_a_signed_video_is_trusted_and_keeps_its_frames_and_sound(
    suffix: str, run: Callable, tmp_path: Path
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    options = write(tmp_path / "keys", key, *chain_of(key))
    clips.moving(tmp_path / "in.mp4", lambda number: (20, 20), 6)
    edit = ("Male", "--box", "20,20,100,100")
    run("in.mp4", f"signed{suffix}", *edit, *options)
    run("in.mp4", f"plain{suffix}", *edit)
    manifest, report = read(tmp_path / f"signed{suffix}")
    assert report["validation_state"] == "Trusted"
    assert manifest["ingredients"][0]["title"] == "in.mp4"
    signed, plain = (clips.read(tmp_path / f"{name}{suffix}") for name in ("signed", "plain"))
    assert np.array_equal(signed.frames, plain.frames)
    assert (signed.times, signed.sound) == (plain.times, plain.sound)
    assert (tmp_path / f"signed{suffix}").read_bytes().count(b"<x:xmpmeta") == 1


def test_no_manifest_is_fetched_for_an_input_that_names_a_remote_one(
    run: Callable, tmp_path: Path
) -> None:
    """A server that others choose would learn who edits the picture."""
    asked = []

    def answer(method: str, path: str, body: bytes) -> tuple[int, object]:
        asked.append(path)
        return 404, {}

    key = ec.generate_private_key(ec.SECP256R1())
    options = write(tmp_path / "keys", key, *chain_of(key))
    signer = signer_of(Path(options[1]), Path(options[3]))
    assert signer
    with answering(answer) as address:
        builder = c2pa.Builder({"claim_generator_info": [{"name": "x", "version": "1"}]})
        builder.set_intent(
            c2pa.C2paBuilderIntent.CREATE, c2pa.C2paDigitalSourceType.DIGITAL_CAPTURE
        )
        builder.set_no_embed()
        builder.set_remote_url(f"{address}/m.c2pa")
        info = c2pa.C2paSignerInfo(b"es256", signer.chain, signer.key, None)
        with Path("face.png").open("rb") as plain, Path("remote.png").open("w+b") as remote:
            builder.sign(c2pa.Signer.from_info(info), "image/png", plain, remote)
        assert address.encode() in Path("remote.png").read_bytes()
        asked.clear()
        run("remote.png", "out.png", "Male", *options)
    assert asked == []
    assert read(tmp_path / "out.png")[1]["validation_state"] == "Trusted"


def test_the_key_may_be_named_by_the_environment_and_have_a_password(
    run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    _, cert, _, path = write(tmp_path / "keys", key, *chain_of(key), password=b"word")
    monkeypatch.setenv("C2PA_CERT", cert)
    monkeypatch.setenv("C2PA_KEY", path)
    with pytest.raises(ValueError, match="C2PA_KEY_PASSWORD is its password"):
        run("face.png", "out.png", "Male")
    assert not Path("out.png").exists()
    monkeypatch.setenv("C2PA_KEY_PASSWORD", "word")
    run("face.png", "out.png", "Male")
    assert read(tmp_path / "out.png")[1]["validation_state"] == "Trusted"


def wrong_keys() -> dict[str, tuple[Any, list[x509.Certificate], str]]:
    key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    weak = ec.generate_private_key(ec.SECP256K1())
    early = certificate("early", CA_KEY, "early", CA_KEY, ca=True, until=-3)
    server = ExtendedKeyUsageOID.SERVER_AUTH
    return {
        "another certificate's": (other, chain_of(key), "not the key of the first certificate"),
        "issuer first": (key, chain_of(key)[::-1], "not the key of the first certificate"),
        "expired": (key, chain_of(key, until=-1), r"CN=signer.* is valid from .*; renew it"),
        "expired issuer": (key, [*chain_of(key), early], r"CN=early.* is valid from .*; renew it"),
        "of another use": (key, chain_of(key, usage=server), "cannot sign C2PA manifests"),
        "of another curve": (weak, chain_of(weak), "C2PA signs with EC keys of P-256"),
    }


@pytest.mark.parametrize("case", wrong_keys())
def test_a_key_that_cannot_sign_is_refused_before_the_model_loads(
    case: str, run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, chain, message = wrong_keys()[case]
    monkeypatch.setattr(translate, "registered_files", None)
    with pytest.raises(ValueError, match=message) as error:
        run("face.png", "out.png", "Male", *write(tmp_path / "keys", key, *chain))
    assert "\n" not in str(error.value)
    assert not Path("out.png").exists()


def test_files_that_are_no_keys_and_half_a_pair_are_refused(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    write(tmp_path / "keys", key, *chain_of(key))
    cert, private = tmp_path / "keys/cert.pem", tmp_path / "keys/key.pem"
    with pytest.raises(ValueError, match=r"key\.pem: no certificates in PEM"):
        signer_of(private, private)
    with pytest.raises(ValueError, match=r"cert\.pem: not a usable private key in PEM"):
        signer_of(cert, cert)
    with pytest.raises(ValueError, match="a certificate and its key are needed"):
        signer_of(cert, None)
    with pytest.raises(OSError, match="none"):
        signer_of(tmp_path / "none", private)
    assert signer_of(None, None) is None


def test_a_format_without_manifests_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^b\.mkv: no C2PA manifest can be put into \.mkv \(1 su"):
        check_suffixes([Path("a.png"), Path("b.mkv")])


def test_every_listed_format_is_one_of_the_librarys() -> None:
    assert set(TYPES.values()) <= set(c2pa.Builder.get_supported_mime_types())


def test_without_the_package_the_fix_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "c2pa", None)
    with pytest.raises(ValueError, match=r"pip install c2pa-python==0\.38\.1"):
        signer_of(tmp_path / "cert.pem", tmp_path / "key.pem")
