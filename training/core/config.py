"""Typed run configuration, read from `key=value` and written beside every result.

Each field declares its meaning and bounds as `Annotated[type, Field(...)]`; the models' own
dataclasses (`training/models/`) are read by the same functions. Addresses and secrets come from
the environment only (`training/core/environment.py`).

Sections are plain frozen dataclasses: `build` validates text and JSON; code that constructs a
section directly is trusted, but for settings that contradict each other.
"""

import dataclasses
import functools
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

T = TypeVar("T")
SECTIONS = ("train", "data", "preprocess", "judge", "eval", "model")
SEED = 2**63 - 1  # the largest seed
KINDS = {
    "integer": "a whole number",
    "number": "a finite number",
    "boolean": "true or false",
    "string": "text",
}
BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}
# Fields that older configurations lack, with the value that these mean: left out of JSON texts
# and hashes, so that those of older data sets, judges and runs stay as they are. A value here is
# the default of every section or model that accepts it.
IMPLIED = {
    ("resize", "exact"), ("load", 0), ("record", True), ("compile", False), ("ahead", False),
    ("upsampling", "transposed"), ("output", "image"), ("d_projection", False),
    ("loss", "wgan-gp"), ("loss", "logistic"), ("loss", "lsgan"), ("loss", "gan"),
    ("lambda_r1", 1.0), ("lambda_adv", 1.0), ("targets", "permuted"), ("targets", "image"),
    ("label_norms", False), ("d_norms", True), ("protocol", "ours"),
}  # fmt: skip
# Text and JSON are converted as pydantic does by default: "8" and 8.0 are the whole number 8.
FINITE = ConfigDict(allow_inf_nan=False)

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
# Of a network: bounded, so that a stored configuration cannot ask for a network without an end.
Layers = Annotated[int, Field(ge=1, le=100)]
SomeLayers = Annotated[int, Field(ge=0, le=100)]
Units = Annotated[int, Field(ge=1, le=16_384)]
SomeUnits = Annotated[int, Field(ge=0, le=16_384)]
Weight = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(gt=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]


def enlarged_side(size: int) -> int:
    """The side, px, that CycleGAN's and AttGAN's code loads for crops of `size`: 286 for 256."""
    return round(size * 286 / 256)


@dataclass(frozen=True)
class DataConfig:
    """Data sets, labels, crops and splits: all settings of the data steps."""

    datasets: Annotated[
        tuple[str, ...],
        Field(
            min_length=1,
            description="data sets: name, or name:kind with kind celeba, rafd, folders, csv",
        ),
    ] = ("celeba",)
    size: Annotated[
        int, Field(ge=8, le=4096, description="side of the square training image, px")
    ] = 128
    load: Annotated[
        int,
        Field(
            ge=0,
            le=8192,
            description="side of the larger pictures that train.crop=shift cuts windows of size "
            "from, px, published size x 286/256; stored beside the others; 0: none",
        ),
    ] = 0
    interpolation: Annotated[
        Literal["bilinear", "bicubic", "lanczos"],
        Field(description="interpolation when resizing, always antialiased"),
    ] = "bicubic"
    resize: Annotated[
        Literal["exact", "fast"],
        Field(
            description="exact: Pillow's pixels, the same on every machine; fast: torch's resize, "
            "in half the time: other pixels by 1 to 2 levels, another digest, no lanczos"
        ),
    ] = "exact"
    celeba_crop: Annotated[
        int,
        Field(
            ge=1,
            le=178,
            description="side of CelebA's centre crop, px; StarGAN 178, AttGAN and STGAN 170",
        ),
    ] = 178
    celeba_shift: Annotated[
        tuple[Annotated[int, Field(ge=-178, le=178)], Annotated[int, Field(ge=-218, le=218)]],
        Field(description="offset of CelebA's crop from the centre, px right and down at 178x218"),
    ] = (0, 0)
    rafd_crop: Annotated[
        int, Field(ge=1, le=1024, description="side of RaFD's crop around the face, px")
    ] = 256
    rafd_centre: Annotated[
        tuple[Annotated[int, Field(ge=0, le=681)], Annotated[int, Field(ge=0, le=1024)]],
        Field(description="centre of RaFD's crop, px from the left and the top at 681x1024"),
    ] = (340, 440)
    cameras: Annotated[
        tuple[str, ...], Field(min_length=1, description="RaFD's camera angles to use, degrees")
    ] = ("045", "090", "135")
    gazes: Annotated[
        tuple[str, ...], Field(min_length=1, description="RaFD's gaze directions to use")
    ] = ("frontal", "left", "right")
    attributes: Annotated[tuple[str, ...], Field(description="binary attributes to edit")] = (
        "Black_Hair",
        "Blond_Hair",
        "Brown_Hair",
        "Male",
        "Young",
    )
    domains: Annotated[
        tuple[str, ...],
        Field(
            description="attributes as classes instead: several are mutually exclusive classes "
            "(images with none or more than one are left out); one gives two classes, without and "
            "with it"
        ),
    ] = ()
    split: Annotated[
        Literal["official", "identity", "paper"],
        Field(
            description="official: the data set's partition; identity: by person; paper: random "
            "test images (2,000 or 10 %)"
        ),
    ] = "official"
    test_share: Annotated[
        float,
        Field(
            gt=0,
            lt=1,
            description="share of the identities for testing, without an official partition",
        ),
    ] = 0.1
    fold: Annotated[
        int,
        Field(
            ge=0,
            description="cross-validation fold: which share of the identities is the test split",
        ),
    ] = 0
    limit: Annotated[
        int, Field(ge=0, description="maximum number of images of each data set; 0: all")
    ] = 0
    bad_share: Annotated[
        Share,
        Field(
            description="maximum share of unusable images, and of pictures in formats that are not "
            "read; above it the run stops"
        ),
    ] = 0.001
    shard_rows: Annotated[Positive, Field(description="maximum number of images per shard")] = 8192

    def __post_init__(self) -> None:
        if 0 < self.load <= self.size:
            raise ValueError(
                f"data.load={self.load} is not above data.size={self.size}; set data.load="
                f"{enlarged_side(self.size)}, or 0 without train.crop=shift"
            )
        if self.resize == "fast" and self.interpolation == "lanczos":
            raise ValueError(
                "data.resize=fast has no data.interpolation=lanczos; set data.resize=exact, or "
                "data.interpolation=bicubic or bilinear"
            )


@dataclass(frozen=True)
class PreprocessConfig:
    """How the cropping is divided; the result, its digest and its cache key do not depend on it."""

    workers: Annotated[
        int,
        Field(
            ge=1,
            le=1_000,
            description="number of parts that crop the images, on a cluster each in its own pod at "
            "the same time, on one machine one after another on all cores",
        ),
    ] = 1


@dataclass(frozen=True)
class TrainConfig:
    """One training run. Lengths are counted in real images drawn, summed over data sets."""

    images: Annotated[Positive, Field(description="length of the training in images")] = 4_012_000
    decay_images: Annotated[
        int,
        Field(
            ge=0,
            description="number of last images over which the learning rate falls linearly to 0",
        ),
    ] = 2_006_000
    warmup_images: Annotated[
        int,
        Field(
            ge=0, description="number of first images that train on the reconstruction loss only"
        ),
    ] = 0
    batch: Annotated[Positive, Field(description="batch size, summed over all processes")] = 16
    seed: Annotated[
        int, Field(ge=0, le=SEED, description="random seed of weights, image order and noise")
    ] = 0
    flip: Annotated[
        bool, Field(description="mirror each image horizontally with probability 1/2")
    ] = True
    crop: Annotated[
        Literal["none", "shift", "zoom"],
        Field(
            description="random crop; shift: a window of data.size from the picture at data.load; "
            "zoom: 0.8 to 1 of the area, with probability 1/2"
        ),
    ] = "none"
    precision: Annotated[
        Literal["auto", "fp32", "bf16"],
        Field(description="numeric precision; auto: bf16 if measured faster"),
    ] = "auto"
    record: Annotated[
        bool,
        Field(
            description="on one GPU, record each kind of step as a CUDA graph and replay it; "
            "the same results but for the learning rate's last bit; may change on resume, with "
            "--folder"
        ),
    ] = True
    compile: Annotated[
        bool,
        Field(
            description="compile each phase's loss with torch.compile (minutes, a C++ compiler or "
            "Triton); one process; the first steps run op by op, also of a resumed training"
        ),
    ] = False
    ahead: Annotated[
        bool,
        Field(
            description="G's images of the steps between two of its updates in one pass; StarGAN "
            "and GANimation; takes more memory"
        ),
    ] = False
    ema: Annotated[
        float,
        Field(ge=0, lt=1, description="decay of G's moving average per 16 images; 0: none"),
    ] = 0.999
    log_images: Annotated[Positive, Field(description="images between two lines of the log")] = (
        1_600
    )
    sample_images: Annotated[Positive, Field(description="images between two sample grids")] = (
        160_000
    )
    checkpoint_images: Annotated[Positive, Field(description="images between two checkpoints")] = (
        160_000
    )
    keep: Annotated[Positive, Field(description="number of last checkpoints to keep")] = 2
    price_per_hour: Annotated[
        float,
        Field(
            ge=0, description="price of all training hardware per hour, in any currency; 0: unknown"
        ),
    ] = 0.0


@dataclass(frozen=True)
class JudgeConfig:
    """The frozen evaluation classifiers, trained once per data version."""

    images: Annotated[
        tuple[Positive, ...],
        Field(
            min_length=1,
            description="training length in images for each data set; the last number also applies "
            "to further data sets",
        ),
    ] = (2_000_000,)
    batch: Annotated[Positive, Field(description="batch size")] = 64
    lr: Annotated[float, Field(gt=0, le=1, description="learning rate")] = 1e-3
    seed: Annotated[
        int,
        Field(
            ge=0, le=SEED, description="random seed, different from those of the translation models"
        ),
    ] = 20_180_619
    floor: Annotated[
        Share, Field(description="lowest clean accuracy; a judge below it is refused")
    ] = 0.8


@dataclass(frozen=True)
class EvalConfig:
    """Scored images, optional networks for metrics, and the conditions of the gate."""

    limit: Annotated[
        Positive, Field(description="maximum number of scored images of each data set")
    ] = 2_000
    eval_split: Annotated[
        Literal["test", "val"],
        Field(description="scored split; val: for model selection without using the test split"),
    ] = "test"
    protocol: Annotated[
        Literal["ours", "paper"],
        Field(
            description="paper: also the numbers of the papers' own tests (StarGAN, AttGAN and "
            "STGAN, StarGAN v2) on the whole split, apart from ours; takes longer"
        ),
    ] = "ours"
    inception: Annotated[
        str,
        Field(
            description="PATH@SHA256 of Inception, for the standard FID: a file of "
            "training.convert, or TorchScript"
        ),
    ] = ""
    lpips: Annotated[
        str,
        Field(
            description="PATH@SHA256 of LPIPS, for models with a latent or reference: a file of "
            "training.convert, or TorchScript"
        ),
    ] = ""
    bootstrap: Annotated[
        Positive, Field(description="number of bootstrap samples for confidence intervals")
    ] = 1_000
    min_success: Annotated[Share, Field(description="gate: lowest mean single-edit success")] = 0.5
    min_psnr: Annotated[
        float, Field(ge=0, le=100, description="gate: lowest PSNR of the self-reconstruction, dB")
    ] = 15.0
    max_kid: Annotated[
        float,
        Field(
            ge=0,
            description="gate: largest distance of the edits from real images of the target (KID), "
            "as a multiple of the unedited inputs'; 0: not judged",
        ),
    ] = 1.0
    max_raster: Annotated[
        float,
        Field(
            ge=0,
            le=255,
            description="gate: strongest stripes and checkerboards, grey levels; 0: not judged",
        ),
    ] = 2.0
    max_background: Annotated[
        Share,
        Field(
            description="gate: largest change outside of what an edit is about, as a share of the "
            "picture's contrast there; 0: not judged"
        ),
    ] = 0.6
    min_identity: Annotated[
        Share,
        Field(
            description="gate: lowest identity cosine, from 0 (different people) to 1 (the same "
            "image); 0: not judged"
        ),
    ] = 0.25
    must_learn: Annotated[
        bool, Field(description="gate: refuse a model whose edits are no better than copied inputs")
    ] = True
    min_effect: Annotated[
        Share,
        Field(description="gate: required gain in mean single-edit success, above seed noise"),
    ] = 0.02
    margin_identity: Annotated[
        Share, Field(description="gate: largest loss of identity cosine")
    ] = 0.05
    margin_preservation: Annotated[
        Share, Field(description="gate: largest loss of preservation of other labels")
    ] = 0.05
    margin_psnr: Annotated[
        float, Field(ge=0, le=100, description="gate: largest loss of self-PSNR, dB")
    ] = 1.0
    margin_kid: Annotated[float, Field(ge=0, description="gate: largest rise of that multiple")] = (
        0.1
    )
    margin_raster: Annotated[
        float,
        Field(ge=0, le=255, description="gate: largest rise of the raster, grey levels"),
    ] = 0.5
    margin_background: Annotated[
        Share, Field(description="gate: largest rise of the change outside of what edits are about")
    ] = 0.05
    margin_worst: Annotated[
        Share, Field(description="gate: largest loss of success of the worst edit")
    ] = 0.10


@dataclass(frozen=True)
class Config:
    """Everything a run resolves to. `model` holds the fields of the named model's dataclass."""

    name: str  # of the model, a key of MODELS
    preset: str
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    model: Any = None
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)


def need(schema: Mapping[str, Any]) -> str:
    """Describe the values that a JSON schema accepts: type, choices and range."""
    if "enum" in schema:
        return f"one of {', '.join(map(str, schema['enum']))}"
    if "pattern" in schema:
        return f"a value such as {' or '.join(schema['examples'])}, or nothing"
    if schema["type"] == "array":
        if "prefixItems" in schema:
            items = "; ".join(need(item) for item in schema["prefixItems"])
            return f"{len(schema['prefixItems'])} values, comma-separated ({items})"
        least = f"{schema['minItems']} or more values" if "minItems" in schema else "values"
        return f"{least}, comma-separated, each {need(schema['items'])}"
    kind = KINDS[schema["type"]]
    if "minimum" in schema and "maximum" in schema:
        return f"{kind} from {schema['minimum']} to {schema['maximum']}"
    bounds = [f"{phrase} {schema[key]}" for key, phrase in BOUNDS.items() if key in schema]
    return f"{kind}, {' and '.join(bounds)}" if bounds else kind


def _prepare(kind: Any, value: Any) -> Any:
    """Parse text into lists and booleans; ValueError where a boolean and a number are mixed up."""
    while typing.get_origin(kind) is Annotated:
        kind = typing.get_args(kind)[0]
    args = typing.get_args(kind)
    if typing.get_origin(kind) is tuple and isinstance(value, str | list | tuple):
        if isinstance(value, str):
            value = value.split(",") if value else []
        return [_prepare(args[0], part) for part in value]
    if kind is bool and isinstance(value, str):
        value = {"true": True, "false": False}.get(value.lower(), value)
    if kind in (bool, int, float) and isinstance(value, bool) != (kind is bool):
        raise ValueError("true and false are not numbers, and numbers are not true or false")
    return value


def convert(kind: Any, value: Any, where: str, adapter: "TypeAdapter[Any] | None" = None) -> Any:
    """Convert `value` (JSON or text) to `kind`, a type with its bounds.

    Raises ValueError with `where`, the value and the accepted values, for another type, a value
    out of bounds, NaN and infinity.
    """
    adapter = adapter or TypeAdapter(kind, config=FINITE)
    try:
        return adapter.validate_python(_prepare(kind, value))
    except (ValidationError, ValueError) as error:
        needed = need(adapter.json_schema())
        raise ValueError(f"{where}={value!r}: needs {needed}") from error


@functools.cache
def _adapters(cls: Any) -> "dict[str, tuple[Any, TypeAdapter[Any]]]":
    """The type and the validator of each field of dataclass `cls`."""
    kinds = typing.get_type_hints(cls, include_extras=True)
    return {
        f.name: (kinds[f.name], TypeAdapter(kinds[f.name], config=FINITE))
        for f in dataclasses.fields(cls)
    }


def build(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """An instance of dataclass `cls` from `values`; ValueError for a wrong name or value."""
    known = _adapters(cls)  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(f"unknown {where}{', '.join(unknown)}; known: {', '.join(known)}")
    converted = {}
    for name, value in values.items():
        kind, adapter = known[name]
        converted[name] = convert(kind, value, f"{where}{name}", adapter)
    return cls(**converted)


def describe(cls: type) -> list[tuple[str, str, str, str]]:
    """(name, default, accepted values, meaning) of each field of a section or model."""
    rows = []
    for f in dataclasses.fields(cls):
        schema = _adapters(cls)[f.name][1].json_schema()
        default = f.default_factory() if callable(f.default_factory) else f.default
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
        text = str(shown).lower() if isinstance(shown, bool) else str(shown)
        rows.append((f.name, text, need(schema), schema.get("description", "")))
    return rows


def described(cls: type[T]) -> type[T]:
    """Make the fields' meanings, and the bounds of numbers, the help of a program's options."""
    fields: dict[str, Any] = cls.__dataclass_fields__  # type: ignore[attr-defined]
    for name, _, needed, meaning in describe(cls):
        bounds = f" ({needed})" if needed.startswith("a ") else ""
        fields[name].metadata = {"help": f"{meaning}{bounds}"}
    return cls


def values_of(config: Any) -> dict[str, Any]:
    """The fields of a config section (or the whole) by name, without the values of `IMPLIED`."""

    def written(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {k: v for k, v in pairs if not any(k == n and v == known for n, known in IMPLIED)}

    return dataclasses.asdict(config, dict_factory=written)


def to_json(config: Any) -> str:
    """A config section (or the whole) as canonical JSON text; see `values_of`."""
    return json.dumps(values_of(config), sort_keys=True, allow_nan=False)


def from_json(cls: type[T], text: str) -> T:
    """Read a section written by `to_json`; empty text gives the defaults."""
    return build(cls, json.loads(text) if text else {}, f"{cls.__name__}.")
