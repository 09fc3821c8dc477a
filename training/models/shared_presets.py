"""Preset values shared by several models: lengths, attributes, and CPU demo settings."""

from dataclasses import replace
from typing import Any

from training.core.config import DataConfig, EvalConfig, JudgeConfig, TrainConfig
from training.models.base import Model, Preset

# StarGAN's paper: 10 + 10 epochs of CelebA's 200,600 training images (24.6 epochs of the official
# split's 162,770), 100 + 100 epochs of RaFD's 4,342.
CELEBA, RAFD = 4_012_000, 868_400
# The 13 attributes of AttGAN and STGAN.
ATTGAN_ATTRIBUTES = (
    "Bald", "Bangs", "Black_Hair", "Blond_Hair", "Brown_Hair", "Bushy_Eyebrows", "Eyeglasses",
    "Male", "Mouth_Slightly_Open", "Mustache", "No_Beard", "Pale_Skin", "Young",
)  # fmt: skip

DEMO_DATA = DataConfig(
    size=64,
    rafd_crop=600,
    rafd_centre=(340, 407),  # the same framing for the synthetic faces of both data sets
)
# Small batches: with this CPU budget, more updates help more than better gradients.
DEMO_TRAIN = TrainConfig(
    images=5_600,
    decay_images=2_200,
    warmup_images=1_600,
    batch=4,
    ema=0.98,
    log_images=400,
    sample_images=1_400,
    checkpoint_images=1_400,
)
DEMO_JUDGE = JudgeConfig(images=(3_200,))
# Of hair colours as classes, which say nothing of people: with 3,200 images the second judge does
# not tell people apart.
HAIR_JUDGE = JudgeConfig(images=(9_600,), batch=32)
# Of drawn faces what looks stained lies above, what looks clean below: docs/concepts/realism.md.
DEMO_EVAL = EvalConfig(limit=250, max_background=0.25)


def demo(model: Model, **train: Any) -> Preset:
    """A preset for minutes on two cores with synthetic faces; one evaluation for all models."""
    return Preset(model, DEMO_DATA, replace(DEMO_TRAIN, **train), DEMO_JUDGE, DEMO_EVAL)


def smoke(row: Preset) -> Preset:
    """A preset with just enough images for `row`'s model to pass every pipeline step."""
    return Preset(
        row.model,
        replace(DEMO_DATA, limit=300, attributes=row.data.attributes, domains=row.data.domains),
        replace(
            DEMO_TRAIN,
            images=640,
            decay_images=320,
            warmup_images=160,
            log_images=160,
            sample_images=320,
            checkpoint_images=320,
        ),
        replace(DEMO_JUDGE, images=(1_000,), floor=0.0),
        replace(
            DEMO_EVAL,
            limit=24,
            bootstrap=100,
            min_success=0.0,
            min_psnr=0.0,
            max_kid=0.0,
            max_raster=0.0,
            max_background=0.0,
            min_identity=0.0,
            must_learn=False,
        ),
    )
