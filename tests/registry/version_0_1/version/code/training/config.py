"""Typed configuration: what a run fixes, read from `key=value`, written beside every result.

The paper's numbers are fields of the model's own dataclass (`training/models/`); named rows that
set all of it are in `training/presets.py`. Addresses and secrets come from the environment only.
"""

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class DataConfig:
    """Which images and labels, and how they are cut; everything before the first network."""

    datasets: tuple[str, ...] = ("celeba",)  # name, or name:kind with kind celeba|rafd|folders|csv
    size: int = 128  # side of the square training image, px
    interpolation: Literal["bilinear", "bicubic", "lanczos"] = "bicubic"  # always antialiased
    celeba_crop: int = 178  # side of the centre square, px; 178 StarGAN, 170 AttGAN/STGAN
    celeba_shift: tuple[int, int] = (0, 0)  # of that square, px right and down at 178x218
    rafd_crop: int = 256  # side of the square around the face at 681x1024, px
    rafd_centre: tuple[int, int] = (340, 440)  # its centre (x, y), px
    cameras: tuple[str, ...] = ("045", "090", "135")
    gazes: tuple[str, ...] = ("frontal", "left", "right")
    attributes: tuple[str, ...] = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Male", "Young")
    # attributes as classes instead: of several, the one that an image has (others are left out);
    # of one, whether it has it
    domains: tuple[str, ...] = ()
    # official: CelebA's partition; identity: by person; paper: random images (2,000 or 10 % test)
    split: Literal["official", "identity", "paper"] = "official"
    test_share: float = 0.1  # of identities, where no official partition exists
    fold: int = 0  # which share of the identities is the test part
    limit: int = 0  # use the first n images of each data set; 0 = all
    bad_share: float = 0.001  # above this share of unreadable images the step fails
    shard_rows: int = 8192  # images a shard at most


@dataclass(frozen=True)
class TrainConfig:
    """One training run. Lengths are counted in real images drawn, summed over data sets."""

    images: int = 4_012_000  # length
    decay_images: int = 2_006_000  # lr falls linearly to 0 over the last of them
    warmup_images: int = 0  # reconstruction alone for the first of them
    batch: int = 16  # global, over all processes
    seed: int = 0
    flip: bool = True  # mirror each image with probability 1/2
    # at random: shift, 256/286 of the side; zoom, with probability ½ 0.8–1 of the area
    crop: Literal["none", "shift", "zoom"] = "none"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    ema: float = 0.999  # decay of G's moving average per 16 images; 0 = off
    log_images: int = 1_600
    sample_images: int = 160_000
    checkpoint_images: int = 160_000
    keep: int = 2  # last checkpoints kept, beside the best
    price_per_hour: float = 0.0  # of all that trains, in any currency; 0 = not known


@dataclass(frozen=True)
class JudgeConfig:
    """The frozen evaluation classifiers, trained once a data version."""

    # drawn to train on each data set; the last number holds for those that follow, too
    images: tuple[int, ...] = (2_000_000,)
    batch: int = 64
    lr: float = 1e-3
    seed: int = 20_180_619  # never a GAN's seed
    floor: float = 0.8  # evaluate refuses a judge whose clean accuracy is below


@dataclass(frozen=True)
class EvalConfig:
    """What evaluation scores and what promotion asks for."""

    limit: int = 2_000  # images of each data set
    eval_split: Literal["test", "val"] = "test"  # val: to choose settings without seeing the test
    inception: str = ""  # PATH@SHA256 of TorchScript Inception weights for a true FID
    lpips: str = ""  # PATH@SHA256 of TorchScript LPIPS, for models with a latent or reference
    bootstrap: int = 1_000
    min_success: float = 0.5  # floor of the mean single-edit success
    min_psnr: float = 15.0  # floor of the self-reconstruction, dB
    must_learn: bool = True  # a model that did not clear a copied input never becomes champion
    min_effect: float = 0.02  # of mean single-edit success, over seed noise
    margin_identity: float = 0.05
    margin_preservation: float = 0.05
    margin_psnr: float = 1.0  # dB
    margin_worst: float = 0.10  # of the worst attribute's success


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


def convert(kind: Any, value: Any, where: str) -> Any:
    """`value` (JSON or text) as `kind`; a wrong one raises ValueError naming `where`."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        if value not in args:
            raise ValueError(f"{where}={value!r}: one of {', '.join(map(str, args))} is needed")
        return value
    if origin is tuple:
        parts = value.split(",") if isinstance(value, str) else list(value)
        item = args[0] if args else str
        if len(args) > 1 and args[1] is not Ellipsis and len(parts) != len(args):
            raise ValueError(f"{where}={value!r}: {len(args)} values are needed, comma-separated")
        return tuple(convert(item, part, where) for part in parts)
    if origin in (types.UnionType, typing.Union):
        return convert(next(a for a in args if a is not type(None)), value, where)
    if kind is bool:
        return _boolean(value, where)
    return _scalar(kind, value, where)


def _boolean(value: Any, where: str) -> bool:
    text = str(value).lower()
    if not isinstance(value, str | bool) or text not in ("true", "false"):
        raise ValueError(f"{where}={value!r}: true or false is needed")
    return text == "true"


def _scalar(kind: Any, value: Any, where: str) -> Any:
    if isinstance(value, bool) or (kind is int and isinstance(value, float) and value % 1):
        raise ValueError(f"{where}={value!r}: {kind.__name__} is needed")
    if kind is str and not isinstance(value, str):
        raise ValueError(f"{where}={value!r}: text is needed")
    try:
        return kind(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}={value!r}: {kind.__name__} is needed") from error


def build(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """An instance of dataclass `cls` from `values`; unknown or ill-typed names are refused."""
    kinds = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise ValueError(f"unknown {where}{', '.join(unknown)}; known: {', '.join(names)}")
    return cls(**{k: convert(kinds[k], v, f"{where}{k}") for k, v in values.items()})


def to_json(config: Any) -> str:
    """A config section (or the whole) as canonical JSON text."""
    return json.dumps(dataclasses.asdict(config), sort_keys=True, allow_nan=False)


def from_json(cls: type[T], text: str) -> T:
    """The section written by `to_json`; the empty text gives the defaults."""
    return build(cls, json.loads(text) if text else {}, f"{cls.__name__}.")
