"""Signatures of versions, by OpenSSF model signing with an elliptic-curve key, without a network.

Whoever can write MLflow can replace a version's files, its lineage record and its tags together,
but cannot sign them. A signature covers every file, and the version's name and number. It is a tag
of the version, and its key is never stored. `model-signing` is an optional extra.
"""

import base64
import binascii
import json
from pathlib import Path
from typing import Any

from training.core import environment
from training.core.files import parse_json
from training.core.temporary import temporary_folder
from training.registry import versions as registry
from training.tracking import client as tracking

TAG = "signature"
PEM = "-----BEGIN PUBLIC KEY-----"
LIMIT = 100_000  # characters that MLflow stores in a tag
INSTALL = "python -m pip install model-signing==1.1.1 pyopenssl"


class SignatureError(ValueError):
    """A version is not signed, or not with the given key, or not with these files."""


def required_key() -> str:
    """The public key, PEM or its path, of every version in use; empty if none is required."""
    return environment.SIGNING_PUBLIC_KEY.get()


def _shown(key: Path | str) -> str:
    return environment.SIGNING_PUBLIC_KEY.name if PEM in str(key) else str(key)


def subject(version: Any) -> str:
    """What a signature is of: the version's name and number."""
    return f"{version.name} version {version.version}"


def require_tag(version: Any) -> str:
    """The version's signature; SignatureError if it has none."""
    text = version.tags.get(TAG, "")
    if not text:
        name = f"{version.name}/{version.version}"
        raise SignatureError(
            f"{subject(version)}: not signed; check where it is from, then python -m "
            f"training.release sign {name} --key PRIVATE_KEY"
        )
    return str(text)


def state(reference: str, key: Path | None) -> str:
    """What is known about a verified version's signature, for people."""
    if key or required_key():
        return f"signed with the key of {_shown(key or required_key())}"
    if TAG in registry.version(reference).tags:
        return "signed, but the signature was not checked; give the public key with --key"
    return "not signed"


def sign(version: Any, folder: Path, key: Path) -> None:
    """Sign the files in `folder`, which is named `subject(version)`, and tag the version.

    Raises ValueError for a key that cannot be used.
    """
    hashing, signing, _ = _library()
    password = environment.SIGNING_KEY_PASSWORD.get().encode() or None
    try:
        signer = signing.Config().use_elliptic_key_signer(private_key=key, password=password)
    except (ValueError, TypeError, AttributeError) as error:
        raise unusable(key, error) from error
    with temporary_folder() as temporary:
        path = Path(temporary) / "signature.json"
        signer.set_hashing_config(_every_file(hashing)).sign(folder, path)
        text = json.dumps(json.loads(path.read_text()), separators=(",", ":"))
    if len(text) > LIMIT:
        raise ValueError(
            f"{subject(version)}: its signature has {len(text)} characters, over MLflow's {LIMIT}"
        )
    if required := required_key():
        _check(version, text, folder, required)
    tracking.client().set_model_version_tag(version.name, version.version, TAG, text)


def unusable(key: Path, why: object) -> ValueError:
    """The error for a private key that cannot be used."""
    return ValueError(
        f"{key}: not a usable private key ({why}); make one with openssl ecparam -name "
        "prime256v1 -genkey -noout -out private.pem; SIGNING_KEY_PASSWORD is its password"
    )


def check(version: Any, folder: Path, key: Path | str) -> None:
    """Verify the version's signature of the files in `folder` with the public `key` or its path.

    Raises SignatureError, and ValueError or OSError for a key that cannot be used.
    """
    _check(version, require_tag(version), folder, key)


def _verifier(key: Path | str) -> Any:
    """The library's verifier for a public key. Raises ValueError or OSError that names it."""
    _, _, verifying = _library()
    with temporary_folder() as temporary:
        path = Path(key)
        if PEM in str(key):
            path = Path(temporary) / "public.pem"
            path.write_text(str(key))
        try:
            return verifying.Config().use_elliptic_key_verifier(public_key=path)
        except (ValueError, AttributeError) as error:
            raise ValueError(
                f"{_shown(key)}: not a usable public key ({error}); openssl ec -in private.pem "
                "-pubout -out public.pem writes it"
            ) from error


def _check(version: Any, text: str, folder: Path, key: Path | str) -> None:
    from cryptography.exceptions import InvalidSignature

    hashing, _, _ = _library()
    verifier = _verifier(key)
    try:
        bundle, statement = _unambiguous(text)
        with temporary_folder() as temporary:
            path = Path(temporary) / "signature.json"
            path.write_text(bundle)
            verifier.set_hashing_config(_every_file(hashing)).verify(folder, path)
        signed = statement["subject"][0]["name"]
        names = {one["name"] for one in statement["predicate"]["resources"]}
    except InvalidSignature as error:
        raise SignatureError(_refusal(version, key, "the signature is not by this key")) from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise SignatureError(_refusal(version, key, " ".join(str(error).split()))) from error
    if signed != subject(version):
        raise SignatureError(_refusal(version, key, f"it is the signature of {signed}"))
    unsigned = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - names
    if unsigned:
        raise SignatureError(_refusal(version, key, f"it leaves out {', '.join(sorted(unsigned))}"))


def _refusal(version: Any, key: Path | str, why: str) -> str:
    name = f"{version.name}/{version.version}"
    return (
        f"{subject(version)}: not signed by the owner of {_shown(key)}: {why[:500]}; use another "
        f"version, or, if its files are right, python -m training.release sign {name} --key "
        "PRIVATE_KEY"
    )


def _unambiguous(text: str) -> tuple[str, Any]:
    """The signature written anew, so that every parser reads it equally, and its statement."""
    bundle = parse_json(text, "its signature")
    envelope = bundle["dsseEnvelope"]
    try:
        payload = base64.b64decode(envelope["payload"], validate=True)
    except binascii.Error as error:
        raise ValueError(f"its signature is damaged: {error}") from error
    fields = {
        "mediaType": bundle["mediaType"],
        "verificationMaterial": bundle["verificationMaterial"],
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": envelope["payloadType"],
            "signatures": envelope["signatures"],
        },
    }
    return json.dumps(fields), parse_json(payload, "its signature's statement")


def _every_file(hashing: Any) -> Any:
    """Hash every file: by default files such as .gitattributes would be left out."""
    return hashing.Config().set_ignored_paths(paths=[], ignore_git_paths=False)


def _library() -> tuple[Any, Any, Any]:
    """Modules hashing, signing and verifying of model-signing; ValueError if it is missing."""
    try:
        from model_signing import hashing, signing, verifying
    except ImportError as error:
        raise ValueError(f"signatures need another package: {INSTALL}") from error
    return hashing, signing, verifying
