"""The entry point that MLflow runs to load a registered model without this project.

It is stored in the model, together with the modules that it imports and the safetensors weights:

    model = mlflow.pyfunc.load_model("models:/stargan@champion")
    edited = model.predict({"image": image, "label": label})

`image` is float32 (n, 3, H, W) in [-1, 1]; `label`, float32 (n, c), holds the target labels in the
order of the model's metadata; `source`, if it is in the model's signature, those of the images. The
result is float32 (n, 3, H, W) in [-1, 1].

Over HTTP (`mlflow models serve`) it is easier with pictures and names, by rows:

    {"dataframe_records": [{"image": "<base64>", "label": ["Blond_Hair"], "source": ["Male"]}]}

`image` is a file such as a PNG or JPEG, as bytes or as base64 text; its central square is edited.
The result is a list of PNG files, as bytes or as base64 text. Labels are names or vectors. Edit
options are passed as params={"intensity": 1.5},
{"seed": 7} or {"reference": the flattened values of one image}; unsupported ones raise ValueError.
This project's own programs never run this file: they load the verified weights with the installed
package (`training.release`).
"""

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import numpy as np
from mlflow.pyfunc import PythonModel

if TYPE_CHECKING:
    from torch import Tensor

    from training.models.base import EditOptions


class PortableTranslator(PythonModel):
    """A trained translator as an MLflow model with named input arrays."""

    def load_context(self, context: Any) -> None:
        """Build the networks and load their weights, the averaged (EMA) ones if they exist."""
        import torch
        from safetensors.torch import load_file

        from training.data.labels import LabelSpace
        from training.models import model_from_json

        folder = Path(context.artifacts["model"])
        config = json.loads((folder / "config.json").read_text())
        space = LabelSpace.from_json(json.loads((folder / "label_space.json").read_text()))
        self.torch, self.name, self.space, self.size = torch, config["name"], space, config["size"]
        self.model = model_from_json(config["name"], config["model"])
        nets, absent = self.model.networks(space, config["size"]), config.get("absent", ())
        self.nets = {name: net for name, net in nets.items() if name not in absent}
        for name, net in self.nets.items():
            files = [folder / part / f"{name}.safetensors" for part in ("ema", "nets")]
            net.load_state_dict(load_file(next(path for path in files if path.is_file())))
            net.requires_grad_(False).eval()

    # no annotations: MLflow would infer a signature from them, and the saved one is more precise
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Translate arrays to an array, and pictures to a list of PNG files.

        MLflow's signature has only the names of the columns; the rest is checked here.
        """
        from training.models.base import check_options

        pictures = list(model_input["image"])
        label = list(model_input["label"])
        source = list(model_input["source"]) if "source" in model_input else [None] * len(label)
        if not len(pictures) == len(label) == len(source):
            raise ValueError(
                f"{len(pictures)} images and {len(label)} labels; one label vector per image "
                "required"
            )
        kinds = {type(one) if isinstance(one, str | bytes) else np.ndarray for one in pictures}
        if len(kinds) > 1:
            raise ValueError("image: arrays and files mixed; give rows of one kind")
        files = kinds & {str, bytes}
        image = _read(pictures, self.size) if files else self._array("image", pictures)
        given, target = self._labels(label, source)
        x = self.torch.from_numpy(image)
        options = self._options(params or {}, x)
        check_options(self.model, self.name, given, options)
        with self.torch.inference_mode():
            out = self.model.translate(self.nets, x, given, target, options)
            made = np.asarray(out.numpy(), np.float32)
        return _written(made, self.name, text=str in files) if files else made

    def _array(self, name: str, rows: list[Any]) -> np.ndarray:
        """Images of an input as one float32 array (n, 3, size, size)."""
        shape = (3, self.size, self.size)
        values = _numbers(name, rows)
        if values.shape[1:] != shape:
            raise ValueError(
                f"{name}: shape {values.shape}; (n, {', '.join(map(str, shape))}), or files as "
                "base64, is needed"
            )
        _check_range(name, values)
        return values

    def _labels(self, label: list[Any], source: list[Any]) -> tuple["Tensor | None", "Tensor"]:
        """Source c̃ (n, dim_g), None if no row has one, and target c̃ (n, dim_g)."""
        sources: list[Tensor] = []
        targets = []
        for row, (wanted, own) in enumerate(zip(label, source, strict=True), 1):
            own = None if own is None or own is np.nan or isinstance(own, float) else own
            try:
                before, after = self._row(wanted, own)
            except ValueError as error:
                raise ValueError(f"row {row}: {error}") from error
            sources += [] if before is None else [before]
            targets.append(after)
        if sources and len(sources) < len(targets):
            raise ValueError(
                f"source: in {len(sources)} of {len(targets)} rows; give it in all or none"
            )
        return self.torch.cat(sources) if sources else None, self.torch.cat(targets)

    def _row(self, label: Any, source: Any) -> tuple["Tensor | None", "Tensor"]:
        """c̃ (1, dim_g) of a row's source and target labels, by name or as vectors."""
        from training.inference.request import edit_labels

        names, own = _names(label), None if source is None else _names(source)
        reads = self.model.reads_source
        if names is not None and (source is None or own is not None):
            return edit_labels(self.space, names, own, reads_source=reads)
        if names is not None or own is not None:
            raise ValueError("label and source: names and numbers mixed; give both in one form")
        return None if source is None else self._vector("source", source), self._vector(
            "label", label
        )

    def _vector(self, name: str, values: Any) -> "Tensor":
        row = _numbers(name, values)
        if row.shape != (self.space.dim_g,):
            raise ValueError(
                f"{name}: shape {row.shape}; ({self.space.dim_g},), or names, is needed"
            )
        return self.torch.from_numpy(row)[None]

    def _options(self, params: dict[str, Any], x: "Tensor") -> "EditOptions":
        """Edit options from `params`; one reference image is used for all of `x`."""
        from training.models.base import EditOptions

        flat, reference = np.asarray(params.get("reference", ()), np.float32), None
        if flat.size:
            if flat.size != x[0].numel():
                raise ValueError(
                    f"reference: {flat.size} numbers; one image of {tuple(x.shape[1:])}, "
                    f"{x[0].numel()} numbers, required"
                )
            _check_range("reference", flat)
            reference = self.torch.from_numpy(flat.copy()).view(1, *x.shape[1:]).expand_as(x)
        return EditOptions(params.get("intensity"), params.get("seed"), reference)


def _numbers(name: str, values: Any) -> np.ndarray:
    try:
        found = np.array(values)
    except ValueError as error:
        raise ValueError(f"{name}: not of one shape ({error})") from error
    if found.dtype.kind not in "biuf":
        raise ValueError(f"{name}: numbers are needed")
    return found.astype(np.float32)


def _names(labels: Any) -> list[str] | None:
    """Labels given by name; None for a vector of numbers."""
    if isinstance(labels, str):
        return [labels]
    listed = isinstance(labels, Sequence | np.ndarray) and len(labels) > 0
    return [*map(str, labels)] if listed and all(isinstance(x, str) for x in labels) else None


def _read(pictures: list[str | bytes], size: int) -> np.ndarray:
    """The central squares of picture files (n, 3, size, size) in [-1, 1]."""
    from PIL import ImageOps

    from training.data.pictures import check_pixels, decode, open_picture

    rows = []
    for row, file in enumerate(pictures, 1):
        try:
            data = base64.b64decode(file, validate=True) if isinstance(file, str) else file
            header = open_picture(data)
            check_pixels(*header.size)
            pixels = np.asarray(ImageOps.fit(decode(header, upright=True), (size, size)))
        except ValueError as error:
            raise ValueError(f"row {row}: image: {error}") from error
        rows.append(pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(127.5) - 1)
    return np.stack(rows)


def _written(images: np.ndarray, name: str, *, text: bool) -> list[str] | list[bytes]:
    """PNG files, as base64 if `text`, whose metadata say that they are synthetic."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    from training.inference.marks import ITXT, xmp

    info = PngInfo()
    info.add_itxt(ITXT, xmp(name))
    files = []
    for pixels in ((images + 1) * 127.5).round().clip(0, 255).astype(np.uint8):
        stream = io.BytesIO()
        Image.fromarray(pixels.transpose(1, 2, 0)).save(stream, "PNG", pnginfo=info)
        files.append(stream.getvalue())
    return [base64.b64encode(file).decode() for file in files] if text else files


def _check_range(what: str, values: np.ndarray) -> None:
    if not (np.isfinite(values).all() and np.abs(values).max(initial=0) <= 1):
        raise ValueError(f"{what}: values must be between -1 and 1")


mlflow.models.set_model(PortableTranslator())
