"""Content Credentials: C2PA manifests, signed with the user's own key, in pictures and videos.

The manifest says that the input was opened and edited by a model (c2pa.opened, c2pa.edited). It
holds no thumbnail of the input, and nothing is asked over a network: no timestamp authority, no
OCSP server, no remote manifest. `c2pa-python` is an optional extra.
Source: C2PA specification 2.2, sections 14 (certificates) and 18 (actions).
"""

import datetime
import io
import json
import mimetypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from training.core import environment
from training.inference.marks import EDITED, PROJECT, RELEASE, TERMS, said

INSTALL = "python -m pip install c2pa-python==0.38.1"
NEW_KEY = "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem makes one"
INPUT = "input"  # the ingredient's label within the manifest
SETTINGS = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_trust": False},
    "builder": {"thumbnail": {"enabled": False}},
}
TYPES = {
    ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp",
    ".tif": "image/tiff", ".tiff": "image/tiff", ".avif": "image/avif",
    ".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/quicktime",
}  # fmt: skip
CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}


@dataclass(frozen=True)
class Signer:
    """A certificate chain, PEM with the signer's first, and its private key, PKCS#8 PEM."""

    chain: bytes
    key: bytes
    algorithm: str

    def sign(
        self, made: BinaryIO, out: BinaryIO, suffix: str, version: str, *,
        title: str, source: tuple[str, BinaryIO], sha256: str, changes: str = "",
    ) -> None:  # fmt: skip
        """Copy the file `made`, of a format in `TYPES`, to `out` with a signed manifest.

        source: the input's file name and bytes, whose own manifest is kept in the new one. sha256
        is the input's, changes the edit as text. Raises ValueError if it cannot be signed.
        """
        c2pa = _library()
        context = c2pa.Context(c2pa.Settings.from_dict(SETTINGS))
        kind = TYPES[suffix.lower()]
        name, data = source
        about = {"title": name, "relationship": "parentOf", "instance_id": f"sha256:{sha256}"}
        input_kind = TYPES.get(Path(name).suffix.lower()) or mimetypes.guess_type(name)[0] or ""
        known = input_kind in c2pa.Builder.get_supported_mime_types()
        definition = _manifest(kind, title, version, changes)
        if not known:  # a format without manifests, such as BMP
            definition["ingredients"] = [{**about, "label": INPUT, "format": input_kind or "?"}]
        try:
            builder = c2pa.Builder(definition, context)
            if known:
                builder.add_ingredient({**about, "label": INPUT}, input_kind, data)
            info = c2pa.C2paSignerInfo(self.algorithm.lower().encode(), self.chain, self.key, None)
            with c2pa.Signer.from_info(info) as signer:
                builder.sign(signer, kind, made, out)
        except c2pa.C2paError as error:
            raise ValueError(f"{title}: cannot be signed ({error})") from error


def _manifest(kind: str, title: str, version: str, changes: str) -> dict[str, Any]:
    agent = {"name": f"{PROJECT}, model {version}", "version": RELEASE}
    edited = {
        "action": "c2pa.edited",
        "digitalSourceType": TERMS + EDITED,
        "softwareAgent": agent,
        "description": " ".join([said(version), changes]).strip(),
    }
    opened = {"action": "c2pa.opened", "parameters": {"ingredientIds": [INPUT]}}
    actions = {"label": "c2pa.actions.v2", "data": {"actions": [opened, edited]}}
    return {
        "claim_generator_info": [{"name": PROJECT, "version": RELEASE}],
        "format": kind,
        "title": title,
        "assertions": [actions],
    }


def signer_of(cert: Path | None, key: Path | None) -> Signer | None:
    """The signer of two PEM files, by default C2PA_CERT and C2PA_KEY; None without any.

    Everything that would make a signature fail is found here: one is made and read back. Raises
    ValueError and OSError for one file without the other, files that are not PEM, a key of another
    certificate or that cannot sign, and a certificate that is not valid today or not for signing.
    """
    cert = cert or _path(environment.C2PA_CERT)
    key = key or _path(environment.C2PA_KEY)
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise ValueError("a certificate and its key are needed: --c2pa-cert PATH --c2pa-key PATH")
    _library()
    signer = Signer(*_read(cert, key))
    _try(signer, cert)
    return signer


def check_suffixes(paths: Sequence[Path]) -> None:
    """Raise ValueError for files that cannot hold a manifest."""
    if bad := [path for path in paths if path.suffix.lower() not in TYPES]:
        raise ValueError(
            f"{bad[0]}: no C2PA manifest can be put into {bad[0].suffix} ({len(bad)} such files); "
            f"use one of {', '.join(TYPES)}"
        )


def _path(variable: environment.Variable) -> Path | None:
    return Path(variable.get()) if variable.get() else None


def _library() -> Any:
    try:
        import c2pa
    except ImportError as error:
        raise ValueError(f"C2PA needs the package c2pa-python: {INSTALL}") from error
    return c2pa


def _read(cert: Path, key: Path) -> tuple[bytes, bytes, str]:
    """The chain, the key as PKCS#8 and the algorithm; what of them is wrong as ValueError."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    try:
        chain = x509.load_pem_x509_certificates(cert.read_bytes())
    except ValueError as error:
        raise ValueError(f"{cert}: no certificates in PEM ({error})") from error
    password = environment.C2PA_KEY_PASSWORD.get().encode() or None
    try:
        private = serialization.load_pem_private_key(key.read_bytes(), password)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{key}: not a usable private key in PEM ({error}); C2PA_KEY_PASSWORD is its password; "
            f"{NEW_KEY}"
        ) from error
    spki = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    if private.public_key().public_bytes(*spki) != chain[0].public_key().public_bytes(*spki):
        raise ValueError(
            f"{key}: not the key of the first certificate of {cert} "
            f"({chain[0].subject.rfc4514_string()}); give that certificate's key, and put it first"
        )
    now = datetime.datetime.now(datetime.UTC)
    for one in chain:
        if not one.not_valid_before_utc <= now <= one.not_valid_after_utc:
            raise ValueError(
                f"{cert}: the certificate {one.subject.rfc4514_string()} is valid from "
                f"{one.not_valid_before_utc:%Y-%m-%d} to {one.not_valid_after_utc:%Y-%m-%d}, "
                f"and today is {now:%Y-%m-%d}; renew it"
            )
    pem = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return cert.read_bytes(), pem, _algorithm(private, key)


def _algorithm(private: Any, key: Path) -> str:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(private, ec.EllipticCurvePrivateKey) and private.curve.name in CURVES:
        return CURVES[private.curve.name]
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return "Ed25519"
    if isinstance(private, rsa.RSAPrivateKey) and private.key_size >= 2048:
        return "PS256"
    raise ValueError(
        f"{key}: C2PA signs with EC keys of P-256, P-384 or P-521, Ed25519 and RSA of 2048 bits or "
        f"more; {NEW_KEY}"
    )


def _try(signer: Signer, cert: Path) -> None:
    """Sign a small picture and read it back."""
    c2pa = _library()
    picture, out = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (16, 16)).save(picture, "PNG")
    source = ("trial.png", io.BytesIO(picture.getvalue()))
    problem = ""
    try:
        picture.seek(0)
        signer.sign(picture, out, ".png", "trial", title="trial", source=source, sha256="")
        context = c2pa.Context(c2pa.Settings.from_dict(SETTINGS))
        with c2pa.Reader("image/png", io.BytesIO(out.getvalue()), context=context) as reader:
            found = json.loads(reader.json())
        if found.get("validation_state") == "Invalid":
            problem = str(found.get("validation_status"))
    except ValueError as error:
        problem = str(error)
    if problem:
        raise ValueError(
            f"{cert}: cannot sign C2PA manifests ({problem}); the signer's certificate comes "
            "first, then its issuers'; it needs the key usage digitalSignature and the extended "
            "key usage emailProtection, and is no CA"
        )
