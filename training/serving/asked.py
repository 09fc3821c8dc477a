"""What a request asks for: a picture, target labels, options. From a form, a raw body, or JSON."""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass

import torch
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from torch import Tensor

from training.inference.paste import center_square
from training.inference.request import edit_labels
from training.models.base import EditOptions, check_options
from training.serving import pictures
from training.serving.problems import Problem, number, refused
from training.serving.served import Served

FILES = ("image", "reference")
TEXTS = ("label", "has", "intensity", "seed", "frame")
SEVERAL = ("label", "has")
MOST_TEXTS = 400  # fields of a form; a label space has far fewer labels
LARGEST_SEED = 2**63 - 1  # torch's


@dataclass(frozen=True)
class Asked:
    """One edit as it was asked for, not checked against a model yet."""

    image: bytes
    labels: list[str]
    has: list[str] | None = None
    intensity: float | None = None
    seed: int | None = None
    reference: bytes | None = None
    frame: str = pictures.FACE


async def whole_body(request: Request, most: int) -> AsyncGenerator[bytes, None]:
    """The body in pieces. Raises Problem above `most` bytes, before they are kept."""
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > most:
            raise too_large(most)
        yield piece


def too_large(most: int) -> Problem:
    return Problem(
        413, f"over {most:,} bytes", "the body", "send a smaller picture, or a JPEG of it"
    )


async def read(request: Request, most: int) -> Asked:
    """The edit of a form or a raw body; options may be in the query of either.

    Raises Problem, and ClientDisconnect.
    """
    kind, _ = parse_options_header(request.headers.get("content-type", ""))
    texts = [(key, value) for key, value in request.query_params.multi_items()]
    if kind == b"multipart/form-data":
        more, files = await _form(request, most)
        return _asked(texts + more, files)
    body = b"".join([piece async for piece in whole_body(request, most)])
    return _asked(texts, {"image": body})


class _InMemory(MultiPartParser):
    """Keeps files in memory: Starlette's own writes larger ones to the disk."""

    spool_max_size = 2**40


async def _form(request: Request, most: int) -> tuple[list[tuple[str, str]], dict[str, bytes]]:
    parser = _InMemory(
        request.headers, whole_body(request, most), max_files=len(FILES), max_fields=MOST_TEXTS
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Problem(
            400, error.message.rstrip("."), "the form", "send multipart/form-data as curl -F does"
        ) from error
    texts: list[tuple[str, str]] = []
    files: dict[str, bytes] = {}
    for name, value in form.multi_items():
        if not isinstance(value, UploadFile):
            texts.append((name, value))
            continue
        data = await value.read()
        if name not in FILES or name in files:
            raise Problem(
                400, "not a file of this form, or given twice", f"field {name[:40]}",
                f"send files as {' and '.join(FILES)}",
            )  # fmt: skip
        if data or name == "image":  # a browser sends an empty file for none
            files[name] = data
    return texts, files


def _asked(texts: Iterable[tuple[str, str]], files: dict[str, bytes]) -> Asked:
    """The edit from named texts and files. Raises Problem for unknown and repeated names."""
    found: dict[str, list[str]] = {}
    for name, text in texts:
        if name not in TEXTS:
            raise Problem(
                400, "unknown", f"field {name[:40]}", f"use {', '.join((*FILES, *TEXTS))}"
            )
        found.setdefault(name, []).append(text)
    for name, values in found.items():
        if len(values) > 1 and name not in SEVERAL:
            raise Problem(400, "given twice", f"field {name}", "give it once")
    if not files.get("image"):
        raise Problem(400, "no picture", "field image", "send it as a form field or as the body")
    one = {name: values[0] for name, values in found.items() if values[0] != ""}
    return Asked(
        image=files["image"],
        labels=found.get("label", []),
        has=found.get("has"),
        intensity=number(one["intensity"], "field intensity", float)
        if "intensity" in one
        else None,
        seed=number(one["seed"], "field seed", int) if "seed" in one else None,
        reference=files.get("reference"),
        frame=one.get("frame", pictures.FACE),
    )


def edit_of(served: Served, asked: Asked, most: int) -> tuple[pictures.Part, "Wanted"]:
    """The part of the picture that is edited, and how. Raises Problem; takes a moment of CPU.

    Labels and options are checked before a pixel of the picture is decoded.
    """
    style = None
    if asked.reference is not None:
        check(served, torch.empty(0), EditOptions(reference=torch.empty(0)))
        style = center_square(pictures.read(asked.reference, "reference", most), served.size)
    wanted = wanted_of(served, asked, style)
    picture = pictures.read(asked.image, "image", most)
    return pictures.part_of(picture, asked.frame, served.size), wanted


@dataclass(frozen=True)
class Wanted:
    """c̃ of source (None: not used) and target (1, dim_g), and the options, all checked."""

    source: Tensor | None
    target: Tensor
    options: EditOptions


def wanted_of(served: Served, asked: Asked, style: Tensor | None) -> Wanted:
    """The labels and options of an edit, checked. Raises Problem."""
    model = served.translator.model
    try:
        source, target = edit_labels(
            served.space, asked.labels, asked.has, reads_source=model.reads_source
        )
    except ValueError as error:
        raise refused(error, "label or has", "GET /model lists the labels") from error
    options = EditOptions(asked.intensity, asked.seed, style)
    check(served, source, options)
    return Wanted(source, target, options)


def check(served: Served, source: Tensor | None, options: EditOptions) -> None:
    """Raise Problem for options that the model does not take."""
    if isinstance(options.seed, int) and not 0 <= options.seed <= LARGEST_SEED:
        raise Problem(
            400, f"{options.seed}: out of range", "seed", f"give a number from 0 to {LARGEST_SEED}"
        )
    try:
        check_options(served.translator.model, served.translator.config["name"], source, options)
    except ValueError as error:
        text = str(error).replace("with --has", "as `has`")
        raise refused(ValueError(text), "options", "GET /model lists them") from error


async def gone(request: Request) -> None:
    """Returns when the client has left; its body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        await asyncio.sleep(0)
