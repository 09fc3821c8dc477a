"""A folder with a page that runs an exported model in the browser, on a plain web server."""

import hashlib
import shutil
import subprocess
import tarfile
from base64 import b64encode
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.core.files import read_json, sha256_file, write_bytes, write_json
from training.core.temporary import temporary_folder, whole_folder
from training.export.onnx_file import Exported
from training.inference.marks import xmp
from training.models.styles import fixed_latent
from training.rendering import html

PACKAGE, RUNTIME = "onnxruntime-web", "1.30.0"
# Of the package on npmjs.com; `npm view onnxruntime-web@1.30.0 dist.integrity` shows it.
INTEGRITY = (
    "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZ"
    "ClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
)
_DIGESTS = (
    "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
    "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
    "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
)
_NAMES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
FILES = dict(zip(_NAMES, _DIGESTS, strict=True))  # of its folder dist -> SHA-256
SEEDS = 1_000  # of styles that the page knows
MIT = "https://github.com/microsoft/onnxruntime/blob/main/LICENSE"


def build(folder: Path, exported: Exported, package: Path | None) -> None:
    """Write the page into the new `folder`, whole or not at all.

    `package`: the unpacked npm package onnxruntime-web; None: it is fetched with npm. Raises
    ValueError if `folder` exists, npm fails, or a file is not that of the pinned version.
    """
    if folder.exists():
        raise ValueError(f"{folder} exists; name a new folder")
    with temporary_folder() as temporary:
        runtime = package or fetch(temporary)
        _check(runtime)
        with whole_folder(folder) as out:
            _write(out, exported, runtime)


def _write(out: Path, exported: Exported, runtime: Path) -> None:
    facts, own = exported.facts, out / PACKAGE
    own.mkdir()
    for name in FILES:
        shutil.copyfile(runtime / "dist" / name, own / name)
    licence = (
        f"{PACKAGE} {RUNTIME}, unchanged. Copyright Microsoft Corporation, MIT License: {MIT}\n"
    )
    write_bytes(own / "LICENSE.txt", licence.encode())
    write_bytes(out / "model.onnx", exported.data)
    version = f"{facts['name']}/{facts['version']}"
    context = {
        "title": f"Edit a photo with {facts['name']}", "model": facts["model"],
        "size": facts["image_size"], "version": version, "content": facts["content_sha256"][:12],
        "runtime": RUNTIME,
    }  # fmt: skip
    write_bytes(out / "index.html", html.render("edit", **context).encode())
    for name in ("css", "js"):
        write_bytes(out / f"page.{name}", html.text(f"edit.{name}.j2").encode())
    name = f"synthetic-{facts['name']}-{facts['version']}.png"
    write_json(out / "facts.json", facts | {"xmp": xmp(version).decode(), "file": name})
    widths = [one["shape"][1] for one in facts["inputs"] if one["name"] == "latent"]
    if widths:
        write_bytes(out / "latents.bin", _latents(widths[0]).tobytes())


def _latents(width: int) -> np.ndarray:
    """The latents (SEEDS, width) of the first seeds, as `translate --seed` draws them."""
    return fixed_latent(torch.empty(SEEDS, 1), width, tuple(range(SEEDS))).numpy().astype("<f4")


def fetch(folder: Path) -> Path:
    """The unpacked package, fetched with npm. Raises ValueError if npm is absent or fails."""
    npm = shutil.which("npm")
    wanted, other = f"{PACKAGE}@{RUNTIME}", f"give the unpacked package with --{PACKAGE}"
    if npm is None:
        raise ValueError(
            f"the page needs {wanted} and npm is not installed: apt-get install npm, or on another "
            f"machine npm pack {wanted} && tar xf {PACKAGE}-{RUNTIME}.tgz, then {other} package"
        )
    done = subprocess.run(
        [npm, "pack", wanted, "--ignore-scripts", "--pack-destination", str(folder)],
        cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    file = folder / f"{PACKAGE}-{RUNTIME}.tgz"
    if done.returncode or not file.is_file():
        lines = [line for line in done.stderr.splitlines() if "error" in line.lower()]
        raise ValueError(f"npm pack {wanted}: {' '.join(lines[:3])[:400]}; try again, or {other}")
    found = "sha512-" + b64encode(hashlib.sha512(file.read_bytes()).digest()).decode()
    if found != INTEGRITY:
        raise ValueError(
            f"npm pack {wanted}: its integrity is {found}, not {INTEGRITY}; ask the owner of the "
            f"npm registry that this machine uses (npm config get registry), or {other}"
        )
    with tarfile.open(file) as archive:
        for name in ("package.json", *(f"dist/{one}" for one in FILES)):
            archive.extract(f"package/{name}", folder, filter="data")
    return folder / "package"


def _check(package: Path) -> None:
    """Raise ValueError unless the folder is the package in the pinned version, unaltered."""
    facts: Any = read_json(package / "package.json") if (package / "package.json").is_file() else {}
    found = f"{facts.get('name', 'no npm package')} {facts.get('version', '')}".strip()
    if found != f"{PACKAGE} {RUNTIME}":
        raise ValueError(f"{package}: {found}; {PACKAGE} {RUNTIME}, unpacked, is needed")
    for name, digest in FILES.items():
        path = package / "dist" / name
        if not path.is_file() or sha256_file(path) != digest:
            what = "altered" if path.is_file() else "missing"
            raise ValueError(f"{path}: {what}; unpack {PACKAGE}-{RUNTIME}.tgz of npm again")
