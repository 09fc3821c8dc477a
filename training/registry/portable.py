"""The entry point that MLflow runs to load a registered model without this project.

It is stored in the model, together with the modules that it imports and the safetensors weights:

    model = mlflow.pyfunc.load_model("models:/stargan@champion")
    edited = model.predict({"image": image, "label": label})

`image` is float32 (n, 3, H, W) in [-1, 1]; `label`, float32 (n, c), holds the target labels in the
order of the model's metadata; `source`, if it is in the model's signature, those of the images. The
result is float32 (n, 3, H, W) in [-1, 1]. Edit options are passed as params={"intensity": 1.5},
{"seed": 7} or {"reference": the flattened values of one image}; unsupported ones raise ValueError.
This project's own programs never run this file: they load the verified weights with the installed
package (`training.release`).
"""

import json
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
        self.torch, self.name = torch, config["name"]
        self.model = model_from_json(config["name"], config["model"])
        nets, absent = self.model.networks(space, config["size"]), config.get("absent", ())
        self.nets = {name: net for name, net in nets.items() if name not in absent}
        for name, net in self.nets.items():
            files = [folder / part / f"{name}.safetensors" for part in ("ema", "nets")]
            net.load_state_dict(load_file(next(path for path in files if path.is_file())))
            net.requires_grad_(False).eval()

    # no annotations: MLflow would infer a signature from them, and the saved one is more precise
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Translate. MLflow has already checked names, shapes and types against the signature."""
        from training.models.base import check_options

        image, label = (np.asarray(model_input[k], np.float32) for k in ("image", "label"))
        source = np.asarray(model_input["source"], np.float32) if "source" in model_input else None
        if len(image) != len(label):
            raise ValueError(
                f"{len(image)} images and {len(label)} labels; one label vector per image required"
            )
        _check_range("image", image)
        x, c = self.torch.from_numpy(image.copy()), self.torch.from_numpy(label.copy())
        source_labels = None if source is None else self.torch.from_numpy(source.copy())
        options = self._options(params or {}, x)
        check_options(self.model, self.name, source_labels, options)
        with self.torch.inference_mode():
            out = self.model.translate(self.nets, x, source_labels, c, options)
            return np.asarray(out.numpy(), np.float32)

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


def _check_range(what: str, values: np.ndarray) -> None:
    if not (np.isfinite(values).all() and np.abs(values).max(initial=0) <= 1):
        raise ValueError(f"{what}: values must be between -1 and 1")


mlflow.models.set_model(PortableTranslator())
