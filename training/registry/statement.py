"""A version's provenance as an in-toto statement, by its lineage record.

The statement is in-toto's, version 1 (https://github.com/in-toto/attestation/blob/main/spec/v1),
its predicate SLSA's, version 1 (https://slsa.dev/spec/v1.0/provenance). A signed one is in a DSSE
envelope (https://github.com/secure-systems-lab/dsse). It states what the record has; no builder
vouches for it, so that it is no claim of an SLSA level.
"""

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from training.core import environment
from training.core.files import read_json, sha256_file, write_bytes
from training.core.provenance import source_url
from training.registry import lineage, signature
from training.registry import versions as registry
from training.registry.lineage import MODEL, RECORD, Lineage
from training.registry.past import times
from training.storage.store import Manifest

TYPE = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
PAYLOAD = "application/vnd.in-toto+json"


def provenance(reference: str, out: Path, key: Path | None) -> str:
    """Verify a version and write its statement, in an envelope signed with `key` if there is one.

    Raises as `lineage.verified` does, and ValueError for a key that cannot be used.
    """
    found = registry.version(reference)
    with lineage.verified(f"{found.name}/{found.version}", data=False) as (folder, record):
        text = json.dumps(statement(found, folder, record), indent=1).encode() + b"\n"
    what = f"{out}: provenance of {found.name}/{found.version}, {len(record.files) + 1} files"
    if key is None:
        write_bytes(out, text)
        signed = signature.TAG in found.tags
        more = ", though the version is; --key PRIVATE_KEY signs it" if signed else ""
        return f"{what}; not signed{more}"
    write_bytes(out, json.dumps(envelope(text, key), indent=1).encode() + b"\n")
    return f"{what}; signed, in a DSSE envelope"


def statement(found: Any, folder: Path, record: Lineage) -> dict[str, Any]:
    """The statement of a verified version in `folder`."""
    files = {**record.files, RECORD: sha256_file(folder / RECORD)}
    registered = datetime.fromtimestamp(found.creation_timestamp / 1000, UTC)
    package = f"pkg:pypi/stargan-family@{metadata.version('stargan-family')}"
    verb = "import" if record.imported else "train"
    config = read_json(folder / MODEL / "config.json")
    return {
        "_type": TYPE,
        "subject": [
            {"name": name, "digest": {"sha256": digest}} for name, digest in sorted(files.items())
        ],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": f"{package}#{verb}",
                "externalParameters": {
                    "name": found.name, "version": str(found.version), "config": config,
                    **({} if record.imported else {"data": _settings(folder)}),
                },
                "internalParameters": {
                    "image": record.image, "seed": record.seed, "content": record.content,
                    "codeHash": record.code_hash, "configHash": record.config_hash,
                    "labelSpaceHash": record.label_space_hash, "evaluation": record.evaluation,
                },
                "resolvedDependencies": list(_dependencies(record)),
            },
            "runDetails": {
                "builder": {"id": package},
                "metadata": {
                    "invocationId": record.pipeline_run,
                    "startedOn": _utc(times(record.training_run, registered)[0]),
                    "finishedOn": _utc(registered),
                },
                "byproducts": [
                    {"name": f"MLflow run of the {what}", "uri": f"runs:/{run}"}
                    for what, run in (("training", record.training_run),
                                      ("pipeline", found.run_id)) if run
                ],
            },
        },
    }  # fmt: skip


def _settings(folder: Path) -> Any:
    """The data configuration of the data set's manifest."""
    return dict(Manifest.read(folder / lineage.DATASET, "dataset").meta.data)


def _utc(when: datetime) -> str:
    return when.isoformat(timespec="seconds").replace("+00:00", "Z")


def _dependencies(record: Lineage) -> Iterator[dict[str, Any]]:
    """Code, packages, data and judge, each with the digest that the record has."""
    if record.git_commit != "unknown":
        url = source_url()
        yield {
            "name": "code", **({"uri": f"git+{url}@{record.git_commit}"} if url else {}),
            "digest": {"gitCommit": record.git_commit},
            "annotations": {"changedFiles": record.git_dirty, "codeHash": record.code_hash},
        }  # fmt: skip
    yield {"name": "requirements.lock", "digest": {"sha256": record.lock_hash}}
    for name, value in record.imported.items():
        yield {"name": name, "digest": {"sha256": value.split()[0]}}
    if record.imported:
        return
    for one in filter(None, record.data_md5.split(",")):
        name, _, md5 = one.rpartition("=")
        yield {
            "name": f"raw data {name}".strip(), "digest": {"md5": md5.removesuffix(".dir")},
            "annotations": {"dvc": md5, "revision": record.revision},
        }  # fmt: skip
    for name, digest in (("dataset manifest", record.dataset), ("judge manifest", record.judge)):
        yield {"name": name, "digest": {"sha256": digest}}


def envelope(payload: bytes, key: Path) -> dict[str, Any]:
    """A DSSE envelope of a statement, signed with an elliptic-curve private key (PEM).

    The hash is the curve's: SHA-256, SHA-384 or SHA-512. Raises ValueError for another key.
    """
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    password = environment.SIGNING_KEY_PASSWORD.get().encode() or None
    try:
        private = serialization.load_pem_private_key(key.read_bytes(), password)
    except (ValueError, TypeError) as error:
        raise signature.unusable(key, error) from error
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise signature.unusable(key, "no elliptic-curve key")
    size = private.curve.key_size
    digest = hashes.SHA256() if size <= 256 else hashes.SHA384() if size <= 384 else hashes.SHA512()
    signed = b"DSSEv1 %d %b %d %b" % (len(PAYLOAD), PAYLOAD.encode(), len(payload), payload)
    public = private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    identity = hashes.Hash(hashes.SHA256())
    identity.update(public)
    made = private.sign(signed, ec.ECDSA(digest))
    return {
        "payloadType": PAYLOAD,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [
            {"keyid": identity.finalize().hex(), "sig": base64.b64encode(made).decode()}
        ],
    }
