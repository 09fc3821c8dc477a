"""Protocols of evaluation: the versions of our own, and the papers'. Imports nothing heavy."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from training.data.labels import LabelSpace

# How the judges are built and trained: raise it with every change of the resulting weights.
JUDGE_RECIPE = "2"
# How edits are scored: raise it with every change of the scores of the same images.
PROTOCOL = "8"
# The same for the numbers by the papers' protocols.
PAPER_PROTOCOL = "1"
# Values of eval.protocol. All numbers are by ours unless they are named after a paper.
OURS, PAPER = "ours", "paper"


class Measure(NamedTuple):
    """What one number of a paper's protocol is, and how it is written."""

    meaning: str
    form: str  # of the value times `factor`
    factor: float = 1.0


class Published(NamedTuple):
    """A paper's protocol: where it is from, what it measures, and of which kind of labels."""

    title: str
    kind: str
    measures: Mapping[str, Measure]


_SHARE = ("%.2f %%", 100.0)
PUBLISHED = {
    "stargan": Published(
        "StarGAN (CVPR 2018), table 3",
        "onehot",
        {
            "error": Measure("classification error of the edits, by image", *_SHARE),
            "real_error": Measure("classification error of real images", *_SHARE),
        },
    ),
    "stgan": Published(
        "AttGAN (TIP 2019) and STGAN (CVPR 2019)",
        "binary",
        {
            "accuracy": Measure("flipped attribute classified as flipped", *_SHARE),
            "others_error": Measure("other attributes classified unlike the ground truth", *_SHARE),
            "real_error": Measure("the same of the attributes of real images", *_SHARE),
            "psnr": Measure("PSNR of the reconstruction", "%.2f dB"),
            "ssim": Measure("SSIM of the reconstruction", "%.4f"),
        },
    ),
    "starganv2": Published(
        "StarGAN v2 (CVPR 2020), tables 1 to 3",
        "onehot",
        {
            "fid": Measure("FID from the training images", "%.2f"),
            "frechet_vgg": Measure("Fréchet distance by our judge, not the FID", "%.2f"),
            "lpips": Measure("LPIPS between ten outputs", "%.4f"),
            "diversity_vgg": Measure("distance of our judge's features, not LPIPS", "%.4f"),
        },
    ),
}


def check_published(space: "LabelSpace") -> None:
    """Raise ValueError if no paper has a protocol for any of the data sets."""
    kinds = {published.kind for published in PUBLISHED.values()}
    if not any(labels.kind in kinds for labels in space.sets):
        names = ", ".join(labels.name for labels in space.sets)
        raise ValueError(
            f"eval.protocol=paper: {names}: no paper has a number for intensities; leave "
            "eval.protocol=ours"
        )
