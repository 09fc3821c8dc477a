"""Metadata of each kind of manifest: one frozen record per kind.

A record's JSON text is part of a manifest's digest, so fields keep their names and their order. A
field that older manifests lack is optional, and is left out of the JSON if it is None.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, kw_only=True)
class Meta:
    """The base of all records; its fields hold JSON values."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "allow_inf_nan": False}

    def to_json(self) -> dict[str, Any]:
        """The fields by name, in order, without those that are None."""
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class RawSet(Meta):
    """One raw data set: its name, and its layout (celeba, rafd, folders or csv)."""

    name: str
    kind: str


@dataclass(frozen=True, kw_only=True)
class ImageSet(RawSet):
    """One preprocessed data set: its split and its image counts."""

    split_by: str
    images: int  # listed in the source
    kept: int
    splits: Mapping[str, int]  # kept images of each split
    dropped: Mapping[str, int]  # images by the reason for leaving them out


@dataclass(frozen=True, kw_only=True)
class RawMeta(Meta):
    """Kind "raw": packed data sets."""

    datasets: tuple[RawSet, ...]
    md5: str  # DVC's, of the data or of each data set as name=md5,…
    nfiles: int
    source: str  # dvc, folder or drawn
    note: str  # how the drawn data differ from the recorded version, or empty


@dataclass(frozen=True, kw_only=True)
class ImagesMeta(Meta):
    """Kind "images": shards of square images, and one label table per data set."""

    data: Mapping[str, Any]  # the DataConfig
    source: str  # digest of the "raw" manifest
    datasets: tuple[ImageSet, ...]
    md5: str | None = None  # of the raw data; None before it was recorded


@dataclass(frozen=True, kw_only=True)
class DatasetMeta(ImagesMeta):
    """Kind "dataset": the images, one label space and one label table."""

    images: str  # digest of the "images" manifest
    dim_g: int  # width of a label vector with its masks


@dataclass(frozen=True, kw_only=True)
class JudgeMeta(Meta):
    """Kind "judge": the frozen classifiers of a data set."""

    recipe: str
    dataset: str  # digest of the "dataset" manifest
    accuracy: Mapping[str, float]  # clean test accuracy in 0…1 by data set


@dataclass(frozen=True, kw_only=True)
class ModelMeta(Meta):
    """Kind "model": the last checkpoint of one training, or imported weights.

    Of imported weights neither the training nor its data are known.
    """

    model: str  # a key of MODELS
    preset: str
    seed: int | None = None
    images: int | None = None  # real images seen
    dataset: str  # digest of the "dataset" manifest; empty if imported
    mlflow_run: str  # its id; empty where tracking was off
    imported: Mapping[str, str] | None = None  # published file -> "<sha256> <bytes>"

    def __post_init__(self) -> None:
        if self.imported is None and None in (self.seed, self.images):
            raise ValueError("seed and images are needed")


@dataclass(frozen=True, kw_only=True)
class EvaluationMeta(Meta):
    """Kind "evaluation": a model's scores and pictures."""

    identity: str  # the fingerprint: equal if two evaluations are comparable
    judge: str  # digest of the "judge" manifest
    dataset: str  # digest of the "dataset" manifest
    split: str | None = None  # test or val; None (older manifests): test
    model: str  # digest of the "model" manifest
    protocol: str | None = None  # eval.protocol; None: ours


@dataclass(frozen=True, kw_only=True)
class ReplicatesMeta(Meta):
    """Kind "replicates": models of one recipe, their files under SEED/."""

    seeds: tuple[int, ...]


KINDS: dict[str, type[Meta]] = {
    "raw": RawMeta,
    "images": ImagesMeta,
    "dataset": DatasetMeta,
    "judge": JudgeMeta,
    "model": ModelMeta,
    "evaluation": EvaluationMeta,
    "replicates": ReplicatesMeta,
}


def meta_of(kind: str, values: Mapping[str, Any] | Meta) -> Meta:
    """The record of a manifest of this kind, from JSON values or already built.

    Raises ValueError for an unknown kind and for unknown, missing or ill-typed fields.
    """
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"manifest of unknown kind {kind!r}; known: {', '.join(KINDS)}")
    if isinstance(values, Meta):
        if type(values) is not KINDS[kind]:
            raise ValueError(f"manifest of kind {kind!r}: a {type(values).__name__} was given")
        return values
    from pydantic import TypeAdapter, ValidationError  # 0.3 s

    from training.core.records import faults

    try:
        # As JSON: strict mode then accepts lists as tuples and converts nothing else.
        text = json.dumps(values, allow_nan=False)
        record: Meta = TypeAdapter(KINDS[kind]).validate_json(text, strict=True)
    except ValidationError as error:
        raise ValueError(
            f"manifest of kind {kind!r}: {error.error_count()} wrong fields of its meta "
            f"({faults(error, 'meta')}); run the step that writes it again with this version"
        ) from error
    return record
