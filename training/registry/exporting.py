"""Export a registered version, verified, as an ONNX file or as a page for the browser."""

from pathlib import Path

import torch

from training.export import onnx_file, web
from training.export.graph import Style
from training.export.onnx_file import Exported, Version
from training.inference.translator import translator_from_files
from training.registry import versions as registry
from training.registry.references import registered_files


def export(
    reference: str,
    onnx: Path | None,
    page: Path | None,
    style: Style,
    runtime: Path | None,
    *,
    time: bool,
) -> str:
    """Write the files and return what was written, for people.

    `runtime` is the unpacked npm package of the page; None: it is fetched. Raises ValueError if
    nothing is to be written, and as `onnx_file.export` and `web.build` do; LineageError and
    SignatureError for a version that does not verify.
    """
    if onnx is None and page is None:
        raise ValueError("nothing to write: give --onnx PATH, --web FOLDER or both")
    onnx_file.require_packages()
    found = registry.version(reference)
    number, tags = str(found.version), found.tags
    translator = translator_from_files(registered_files(f"{found.name}/{number}"))
    version = Version(found.name, number, tags["content"], tags["lineage"])
    made = onnx_file.export(translator, version, style)
    lines = [_compared(version, made)]
    if onnx is not None:
        onnx_file.write(onnx, made)
        lines.append(f"written to {onnx}")
    if page is not None:
        web.build(page, made, runtime)
        lines.append(f"page written to {page}: python -m http.server --bind 127.0.0.1 -d {page}")
    if time:
        threads = torch.get_num_threads()
        lines += [
            f"batch {one.batch}: torch {one.torch:.1f} ms, onnxruntime {one.onnxruntime:.1f} ms "
            f"(medians, {threads} threads)"
            for one in onnx_file.timed(translator, made.session, style)
        ]
    return "\n".join(lines)


def _compared(version: Version, made: Exported) -> str:
    size = f"{len(made.data) / 1e6:.1f} MB, opset {onnx_file.OPSET}"
    return (
        f"{version}: {size}; over {made.edits} edits it differs from torch by at most "
        f"{made.difference:.1e} (limit {onnx_file.LIMIT:.0e})"
    )
