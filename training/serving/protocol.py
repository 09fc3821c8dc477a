"""The Open Inference Protocol, version 2: model metadata, and inference from JSON.

Two forms of input: tensors (`image`, `label`, `source`), as the registered model's own signature
has them, and a picture's bytes (`picture`, BYTES in base64) with the names of labels.
https://github.com/kserve/open-inference-protocol
"""

import base64
import binascii
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from training.models.base import EditOptions
from training.serving import pictures
from training.serving.asked import Asked, Wanted, check
from training.serving.problems import Problem, number
from training.serving.served import Served

SERVER = "stargan-family"
BYTES, FLOATS = "BYTES", "FP32"
TENSORS, TEXTS = ("image", "label", "source"), ("picture", "labels", "has", "reference")
OPTIONS = ("intensity", "seed", "frame")
MOST_LISTS = 100_000  # of a body; Python answers nothing else while it makes them
Dimension = Annotated[int, Field(ge=0, le=2**31)]


class Input(BaseModel):
    """One named tensor of a request."""

    model_config = ConfigDict(extra="ignore", strict=True)
    name: str
    datatype: Literal["FP32", "FP64", "BYTES"]
    shape: list[Dimension]
    data: list[Any]
    parameters: dict[str, Any] = Field(default_factory=dict)


class Inference(BaseModel):
    """The body of an inference request."""

    model_config = ConfigDict(extra="ignore", strict=True)
    id: str | None = None
    inputs: list[Input] = Field(min_length=1, max_length=8)
    parameters: dict[str, Any] = Field(default_factory=dict)
    outputs: list[dict[str, Any]] = Field(default_factory=list)


class Given(BaseModel):
    """A parsed request: the inputs by name."""

    id: str | None
    inputs: dict[str, Input]
    options: dict[str, Any]

    @property
    def is_tensor(self) -> bool:
        return "image" in self.inputs


def server() -> dict[str, Any]:
    """The server's metadata."""
    return {"name": SERVER, "version": importlib.metadata.version(SERVER), "extensions": []}


def metadata(served: Served) -> dict[str, Any]:
    """The model's metadata: its inputs and outputs in both forms."""
    size, width = served.size, served.space.dim_g
    inputs = [
        {"name": "image", "datatype": FLOATS, "shape": [-1, 3, size, size]},
        {"name": "label", "datatype": FLOATS, "shape": [-1, width]},
    ]
    if served.translator.model.reads_source:
        inputs.append({"name": "source", "datatype": FLOATS, "shape": [-1, width]})
    texts = [{"name": name, "datatype": BYTES, "shape": [-1]} for name in ("labels", "has")]
    picture = {"name": "picture", "datatype": BYTES, "shape": [1]}
    options = served.translator.model.supported_options
    style = [{"name": "reference", "datatype": BYTES, "shape": [1]}]
    return {
        "name": served.name,
        "versions": [served.version],
        "platform": "pytorch",
        "inputs": [*inputs, picture, *texts, *(style if "reference" in options else [])],
        "outputs": [{"name": "image", "datatype": FLOATS, "shape": [-1, 3, size, size]}, picture],
        "parameters": served.offer(),
    }


def parse(body: bytes) -> Given:
    """Parse a request's JSON. Raises Problem that names the field."""
    fix = "send a request of the Open Inference Protocol"
    lists = body.count(b"[") + body.count(b"{")
    if lists > MOST_LISTS:
        raise Problem(
            400, f"{lists:,} lists and objects; the limit is {MOST_LISTS:,}", "the body",
            "send flat data, which may be as long",
        )  # fmt: skip
    try:
        found = Inference.model_validate(json.loads(body))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        raise Problem(400, first["msg"], where, fix) from error
    except (ValueError, RecursionError) as error:
        raise Problem(400, f"not valid JSON ({error})", "the body", fix) from error
    names = [one.name for one in found.inputs]
    known = TENSORS if "image" in names else TEXTS
    for name in names:
        if name not in known or names.count(name) > 1:
            raise Problem(
                400, "unknown here, or given twice", f"input {name[:40]}",
                f"send {', '.join(TENSORS)}, or {', '.join(TEXTS)}",
            )  # fmt: skip
    for name in found.parameters:
        if name not in OPTIONS:
            raise Problem(400, "unknown", f"parameter {name[:40]}", f"use {', '.join(OPTIONS)}")
    return Given(id=found.id, inputs={i.name: i for i in found.inputs}, options=found.parameters)


def asked(given: Given) -> Asked:
    """The edit of a request with a picture's bytes. Raises Problem."""
    options, picture = _options(given), _picture(given, "picture")
    if picture is None:
        raise Problem(400, "missing", "input picture", "send it, or image and label as tensors")
    return Asked(
        picture, _texts(given, "labels") or [], _texts(given, "has"), options.intensity,
        options.seed if isinstance(options.seed, int) else None, _picture(given, "reference"),
        str(given.options.get("frame", pictures.FACE)),
    )  # fmt: skip


def tensors(served: Served, given: Given, most: int) -> tuple[Tensor, Wanted]:
    """Images (n, 3, s, s) and what to make of them, from a request of at most `most` of them.

    Raises Problem for other shapes, numbers out of range, and what the model does not take.
    """
    size, width = served.size, served.space.dim_g
    image = _tensor(given, "image", (3, size, size))
    target, source = _tensor(given, "label", (width,)), None
    if "source" in given.inputs:
        source = _tensor(given, "source", (width,))
        if not served.translator.model.reads_source:
            raise Problem(400, "this model does not read it", "input source", "leave it out")
    if len(image) > most:
        raise Problem(
            400, f"{len(image)} images", "input image", f"send at most {most} in one request"
        )
    for name, rows in (("label", target), ("source", source)):
        if rows is not None and len(rows) != len(image):
            raise Problem(
                400, f"{len(rows)} rows for {len(image)} images", f"input {name}",
                "send one row for each image",
            )  # fmt: skip
    bounds = {"image": (image, -1, 1), "label": (target, 0, 1), "source": (source, 0, 1)}
    for name, (values, low, high) in bounds.items():
        if values is not None and not bool(((values >= low) & (values <= high)).all()):
            raise Problem(
                400, f"values outside [{low}, {high}]", f"input {name}", "scale them to that range"
            )
    if "frame" in given.options:
        raise Problem(400, "of tensors there is none", "parameter frame", "leave it out")
    options = _options(given)
    check(served, source, options)
    return image, Wanted(source, target, options)


def _tensor(given: Given, name: str, shape: Sequence[int]) -> Tensor:
    """Float32 (n, *shape) of an input, whose data may be flat or nested."""
    if name not in given.inputs:
        raise Problem(400, "missing", f"input {name}", "GET the model's route for its inputs")
    one = given.inputs[name]
    wanted = ", ".join(map(str, ("n", *shape)))
    if one.datatype == BYTES or not one.shape or one.shape[1:] != list(shape) or not one.shape[0]:
        raise Problem(
            400, f"{one.datatype} of shape {one.shape}", f"input {name}",
            f"send FP32 of shape ({wanted})",
        )  # fmt: skip
    try:
        values = np.asarray(one.data, np.float32)
    except (TypeError, ValueError) as error:
        raise Problem(400, f"not numbers ({error})", f"input {name}", "send numbers") from error
    if values.size != np.prod(one.shape, dtype=np.int64):
        raise Problem(
            400, f"{values.size} numbers for shape {one.shape}", f"input {name}",
            "send as many as the shape says",
        )  # fmt: skip
    return torch.from_numpy(values.reshape(one.shape))


def _texts(given: Given, name: str) -> list[str] | None:
    if name not in given.inputs:
        return None
    one = given.inputs[name]
    texts = [text for text in one.data if isinstance(text, str)]
    if one.datatype != BYTES or len(texts) != len(one.data) or one.shape != [len(texts)]:
        raise Problem(
            400, f"{one.datatype} of shape {one.shape}", f"input {name}",
            "send BYTES of shape (n) with n texts",
        )  # fmt: skip
    return texts


def _picture(given: Given, name: str) -> bytes | None:
    texts = _texts(given, name)
    if texts is None:
        return None
    try:
        (text,) = texts
        return base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error) as error:
        raise Problem(
            400, "not one text in base64", f"input {name}", "send one picture's bytes in base64"
        ) from error


def _options(given: Given) -> EditOptions:
    intensity, seed = (given.options.get(name) for name in ("intensity", "seed"))
    return EditOptions(
        None if intensity is None else number(intensity, "parameter intensity", float),
        None if seed is None else number(seed, "parameter seed", int),
    )


def answer(served: Served, given: Given, result: Tensor | bytes) -> dict[str, Any]:
    """The response to a request: images (n, 3, s, s), or a picture's bytes."""
    if isinstance(result, bytes):
        text = base64.b64encode(result).decode()
        output = _output("picture", BYTES, [1], [text], {"content_type": "base64"})
    else:
        output = _output("image", FLOATS, list(result.shape), result.flatten().tolist(), {})
    found = {"model_name": served.name, "model_version": served.version, "outputs": [output]}
    return found | ({"id": given.id} if given.id is not None else {})


def _output(
    name: str, datatype: str, shape: list[int], data: list[Any], parameters: Mapping[str, Any]
) -> dict[str, Any]:
    made = {"name": name, "datatype": datatype, "shape": shape, "data": data}
    return made | ({"parameters": dict(parameters)} if parameters else {})
