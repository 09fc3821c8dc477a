"""Named configurations, one row a (model, preset), and how a run's overrides change one.

python -m pipelines run preset=celeba-128 seed=1 lambda_rec=5 --dry-run
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from training.core.config import (
    SECTIONS,
    Config,
    DataConfig,
    EvalConfig,
    JudgeConfig,
    TrainConfig,
    build,
)
from training.data.labels import UNITS
from training.models import MODELS
from training.models.attgan import AttGAN
from training.models.cyclegan import CycleGAN
from training.models.diat import DIAT
from training.models.ganimation import GANimation
from training.models.icgan import IcGAN
from training.models.stargan import StarGAN
from training.models.starganv2 import StarGANv2
from training.models.stgan import STGAN

# 10 + 10 epochs of CelebA's 200,600 training images; 100 + 100 of RaFD's 4,342 (paper, 1.3). Of
# the official split's 162,770 images it is 24.6 epochs.
CELEBA, RAFD = 4_012_000, 868_400
# AttGAN's 60 epochs of 182,000; STGAN's 200 of 947 cycles of six batches of 32. Both count the
# images of their split by index; of the official one they are 67 and 223 epochs.
ATTGAN, STGAN_ = 10_920_000, 36_364_800
# GANimation's 30 epochs of 200,000.
EMOTIONET = 6_000_000
# The attributes of AttGAN and STGAN.
THIRTEEN = (
    "Bald", "Bangs", "Black_Hair", "Blond_Hair", "Brown_Hair", "Bushy_Eyebrows", "Eyeglasses",
    "Male", "Mouth_Slightly_Open", "Mustache", "No_Beard", "Pale_Skin", "Young",
)  # fmt: skip
# IcGAN's.
EIGHTEEN = (
    "Bald", "Bangs", "Black_Hair", "Blond_Hair", "Brown_Hair", "Bushy_Eyebrows", "Eyeglasses",
    "Gray_Hair", "Heavy_Makeup", "Male", "Mouth_Slightly_Open", "Mustache", "Pale_Skin",
    "Receding_Hairline", "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Hat",
)  # fmt: skip
# The reference code's 200,000 iterations of 16; its joint training takes two batches in each.
REPOSITORY = 3_200_000

_DEMO = Config(
    "stargan",
    "demo",
    data=DataConfig(size=64, rafd_crop=600, rafd_centre=(340, 407)),  # frames the drawn faces alike
    # Small batches: on two cores the number of updates decides, not their quality.
    train=TrainConfig(
        images=5_600,
        decay_images=2_200,
        warmup_images=1_600,
        batch=4,
        ema=0.98,
        log_images=400,
        sample_images=1_400,
        checkpoint_images=1_400,
    ),
    judge=JudgeConfig(images=(3_200,)),
    eval=EvalConfig(limit=250),
    model=StarGAN(
        conv_dim=16,
        repeat_num=3,
        d_conv_dim=32,
        d_repeat_num=4,
        n_critic=1,
        lambda_rec=15,
        g_lr=8e-4,
        d_lr=8e-4,
    ),
)


def _row(preset: str, length: int, size: int = 128, **data: Any) -> Config:
    """A preset at the paper's settings."""
    return Config(
        "stargan",
        preset,
        DataConfig(size=size, **data),
        TrainConfig(images=length, decay_images=length // 2),
        model=StarGAN(),
    )


_JOINT = ("celeba", "rafd")
# Eight expressions of few people take more and smaller steps than hair colours do.
_JOINT_JUDGE = JudgeConfig(images=(3_200, 6_400), batch=16)
_SMALL_ATTGAN: dict[str, Any] = {
    "dim": 32, "layers": 4, "d_dim": 32, "d_layers": 4, "d_fc": 256, "n_critic": 1, "lr": 5e-4,
    "bn_momentum": 0.02, "averages": True,
}  # fmt: skip


def _demo(name: str, model: Any, **train: Any) -> Config:
    """The demo with another model, on the same faces and judged alike."""
    return replace(_DEMO, name=name, model=model, train=replace(_DEMO.train, **train))


_SMOKE = replace(
    _DEMO,
    preset="smoke",
    data=replace(_DEMO.data, limit=300),
    train=replace(
        _DEMO.train,
        images=640,
        decay_images=320,
        warmup_images=160,
        log_images=160,
        sample_images=320,
        checkpoint_images=320,
    ),
    judge=replace(_DEMO.judge, images=(1_000,), floor=0.0),
    eval=replace(
        _DEMO.eval, limit=24, bootstrap=100, min_success=0.0, min_psnr=0.0, must_learn=False
    ),
)


def _smoke(row: Config) -> Config:
    """The fewest images that go through every step."""
    data = replace(_SMOKE.data, attributes=row.data.attributes, domains=row.data.domains)
    return replace(_SMOKE, name=row.name, model=row.model, data=data)


_OTHERS = (
    _demo("attgan", AttGAN(**_SMALL_ATTGAN), images=11_200),
    _demo(
        "stgan",
        STGAN(**_SMALL_ATTGAN, shortcut_layers=3, inject_layers=3),
        images=11_200,  # hair comes after gender and age, in the second half
        warmup_images=400,
    ),
    replace(
        _demo(
            "ganimation",
            # All weights are lighter beside D's score: at 160, and still at 25, G paints what only
            # D takes for units.
            GANimation(
                conv_dim=16, repeat_num=3, d_conv_dim=32, d_repeat_num=4, n_critic=1, g_lr=8e-4,
                d_lr=8e-4, averages=True, lambda_cond=5.0, lambda_cyc=1.0, lambda_mask=0.02,
                lambda_tv=0.8,
            ),
            images=22_400,
            batch=8,
            decay_images=8_800,
            warmup_images=0,
        ),
        # Those that show plainly at 64 px, of the 16 that the drawn faces have.
        data=replace(
            _DEMO.data, attributes=("AU02", "AU04", "AU06", "AU12", "AU25", "AU26")
        ),
        judge=JudgeConfig(images=(9_600,), batch=32),  # what units show is small
        eval=replace(_DEMO.eval, min_success=0.1),  # mouths move, brows hardly
    ),
    _demo(
        "cyclegan",
        CycleGAN(dim=16, blocks=3, d_dim=16, d_layers=2, lr=8e-4, averages=True),
        batch=2,
    ),
    _demo(
        "diat",
        # With λ_id up to 10 G paints noise that D takes for the label, with 30 hardly an edit.
        DIAT(
            dim=16, blocks=3, d_dim=16, d_repeat_num=4, n_critic=1, lr=8e-4, averages=True,
            lambda_id=15.0,
        ),
        batch=2,
    ),
    _demo(
        "icgan",
        IcGAN(dim=32, e_dim=16, z_hidden=512, y_hidden=128),
        images=22_400,  # at 5,600 the faces are still noise
        batch=8,
        warmup_images=0,
        decay_images=0,
        ema=0.0,
    ),
    replace(
        _demo(
            "starganv2",
            StarGANv2(dim=16, max_dim=64, hidden=64, lr=5e-4, f_lr=1e-4),
            images=3_200,
            batch=8,
            decay_images=0,
            warmup_images=0,
            ema=0.99,
        ),
        data=replace(_DEMO.data, domains=("Black_Hair", "Blond_Hair", "Brown_Hair")),
    ),
)  # fmt: skip
_ROWS = (
    _DEMO,
    *_OTHERS,
    *map(_smoke, _OTHERS),
    replace(
        _DEMO,
        preset="demo-joint",
        data=replace(_DEMO.data, datasets=_JOINT),
        train=replace(_DEMO.train, images=6_400, decay_images=2_400),
        judge=_JOINT_JUDGE,
        eval=replace(_DEMO.eval, min_success=0.3),  # eight of its thirteen edits begin at 1/8
    ),
    replace(
        _DEMO,
        preset="demo-long",
        data=replace(_DEMO.data, datasets=_JOINT),
        judge=_JOINT_JUDGE,
        train=replace(
            _DEMO.train,
            images=32_000,
            decay_images=16_000,
            warmup_images=3_000,
            ema=0.995,
            sample_images=4_000,
            checkpoint_images=4_000,
        ),
    ),
    _SMOKE,
    _row("celeba-128", CELEBA),
    _row("celeba-256", CELEBA, 256),
    _row("rafd-128", RAFD, datasets=("rafd",)),
    _row("joint-128", 2 * REPOSITORY, datasets=_JOINT),
    _row("joint-256", 2 * REPOSITORY, 256, datasets=_JOINT),
    # The reference code's own choices: its length, its random split, its decay without effect.
    replace(
        _row("celeba-128-repo", REPOSITORY, split="paper", interpolation="bilinear"),
        model=StarGAN(fidelity="repo"),
    ),
    # The TensorFlow code's length, rate, mirroring and random crop (143 to 128 px) on the PyTorch
    # port's square, since the former's pictures are aligned anew, which ours are not.
    Config(
        "attgan",
        "celeba-128",
        DataConfig(celeba_crop=170, interpolation="bilinear", attributes=THIRTEEN),
        TrainConfig(images=ATTGAN, decay_images=ATTGAN // 2, batch=32, ema=0.0, crop="shift"),
        model=AttGAN(),
    ),
    Config(
        "stgan",
        "celeba-128",
        # Called central, the published square is at (3, 26), not (4, 24).
        DataConfig(celeba_crop=170, celeba_shift=(-1, 2), attributes=THIRTEEN),
        TrainConfig(images=STGAN_, decay_images=STGAN_ // 2, batch=32, ema=0.0, flip=False),
        model=STGAN(),
    ),
    Config(  # the length of StarGAN for each of five pairs
        "cyclegan",
        "celeba-128",
        DataConfig(),
        TrainConfig(
            images=5 * CELEBA, decay_images=5 * CELEBA // 2, batch=1, ema=0.0, crop="shift"
        ),
        model=CycleGAN(),
    ),
    Config(
        "diat",
        "celeba-128",
        DataConfig(),
        TrainConfig(images=10 * CELEBA, decay_images=5 * CELEBA, ema=0.0),
        model=DIAT(),
    ),
    Config(  # neutral and each of the seven others
        "cyclegan",
        "rafd-128",
        DataConfig(datasets=("rafd",)),
        TrainConfig(images=7 * RAFD, decay_images=7 * RAFD // 2, batch=1, ema=0.0, crop="shift"),
        model=CycleGAN(hub="neutral"),
    ),
    Config(
        "diat",
        "rafd-128",
        DataConfig(datasets=("rafd",)),
        TrainConfig(images=14 * RAFD, decay_images=7 * RAFD, ema=0.0),
        model=DIAT(hub="neutral"),
    ),
    Config(
        "icgan",
        "celeba-64",
        # x 30 to 168, y 40 to 178
        DataConfig(size=64, celeba_crop=138, celeba_shift=(10, 0), attributes=EIGHTEEN),
        TrainConfig(images=40 * 182_637, decay_images=0, batch=64, ema=0.0),
        model=IcGAN(),
    ),
    Config(
        "starganv2",
        "celeba-hq",
        DataConfig(datasets=("celeba-hq:folders",), size=256),  # folders female/ and male/
        TrainConfig(images=800_000, decay_images=0, batch=8, ema=0.998, crop="zoom"),
        model=StarGANv2(),
    ),
    Config(
        "starganv2",
        "afhq",
        DataConfig(datasets=("afhq:folders",), size=256),
        TrainConfig(images=800_000, decay_images=0, batch=8, ema=0.998, crop="zoom"),
        model=StarGANv2(lambda_ds=2.0),
    ),
    Config(
        "ganimation",
        "units-128",
        DataConfig(attributes=UNITS),
        TrainConfig(images=EMOTIONET, decay_images=EMOTIONET // 3, batch=25, ema=0.0),
        model=GANimation(),
    ),
)
PRESETS = {(row.name, row.preset): row for row in _ROWS}


def fields(config: Config) -> dict[str, list[str]]:
    """The settable names of each section of `config`."""
    return {s: [f.name for f in dataclasses.fields(getattr(config, s))] for s in SECTIONS}


def known(config: Config) -> str:
    """The settable names, as a person reads them."""
    return "; ".join(f"{s}: {', '.join(names)}" for s, names in fields(config).items())


def locate(config: Config, key: str) -> tuple[str, str]:
    """(section, name) of `key`, dotted or bare.

    A bare name means the training's field, or the model's where no other section has one of that
    name. Raises ValueError for an unknown name, and with the candidates for one of other sections.
    """
    table = fields(config)
    section, _, name = key.rpartition(".")
    homes = [s for s in ([section] if section else SECTIONS) if name in table.get(s, [])]
    if not homes:
        raise ValueError(f"unknown key {key!r}; known: {known(config)}")
    if section or homes[0] == "train" or homes == ["model"]:
        return homes[0], name
    near = [f"model.{own}" for own in table["model"] if own.endswith(f"_{name}")]
    options = " or ".join([*near, *(f"{home}.{name}" for home in homes)])
    raise ValueError(f"{key}: not a setting of the training or the model alone; write {options}")


def resolve(
    model: str, preset: str, overrides: Mapping[str, Any] | None = None, datasets: str = ""
) -> Config:
    """The preset with `overrides` (name, or section.name -> text or value) applied.

    `datasets`, a parameter of the pipeline, comes before `data.datasets` where it is given.
    Raises ValueError, with the known names, for an unknown model, preset, key or value.
    """
    if model not in MODELS:
        raise ValueError(f"unknown model {model!r}; known: {', '.join(MODELS)}")
    if (model, preset) not in PRESETS:
        rows = [p for m, p in PRESETS if m == model]
        raise ValueError(f"unknown preset {preset!r} of {model}; known: {', '.join(rows)}")
    config = PRESETS[model, preset]
    changes: dict[str, dict[str, Any]] = {}
    given = {"data.datasets": datasets} if datasets else {}
    for key, value in {**(overrides or {}), **given}.items():
        section, name = locate(config, key)
        changes.setdefault(section, {})[name] = value
    for section, values in changes.items():
        part = getattr(config, section)
        changed = build(type(part), {**_shallow(part), **values}, f"{section}.")
        config = replace(config, **{section: changed})
    _check(config)
    return config


def _shallow(part: Any) -> dict[str, Any]:
    return {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}


def _check(config: Config) -> None:
    """What no field's own bounds can say."""
    train = config.train
    if train.images < train.batch:
        raise ValueError(
            f"train.images={train.images}: needs at least one batch, train.batch={train.batch}"
        )
    for name in ("decay_images", "warmup_images"):
        if getattr(train, name) > train.images:
            raise ValueError(
                f"train.{name}={getattr(train, name)}: needs at most train.images={train.images}"
            )


def parse(text: str) -> dict[str, str]:
    """Overrides written as "key=value;key=value"."""
    out = {}
    for part in filter(None, (p.strip() for p in text.split(";"))):
        key, sign, value = part.partition("=")
        if not sign:
            raise ValueError(f"override {part!r}: key=value is needed")
        out[key.strip()] = value.strip()
    return out
