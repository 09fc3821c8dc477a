"""Turn public weight files into the networks of FID, LPIPS and facial landmarks, as safetensors.

    python -m training.convert inception inception_v3_google-0cc3c7bd.pth inception.safetensors
    python -m training.convert lpips alexnet-owt-7be5be79.pth alex.pth lpips.safetensors
    python -m training.convert landmarks 100000_nets_ema.ckpt landmarks.safetensors

Files are read weights-only, their tensors counted and their shapes checked. What is printed is the
setting of an evaluation, or of StarGAN v2. Nothing is downloaded.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from training.core import cli
from training.core.cli import means

if TYPE_CHECKING:  # torch, which the help does not need
    from torch import Tensor

    from training.evaluation.perception.public import Converted

main = cli.program("python -m training.convert", __doc__)
Out = Annotated[Path, means("safetensors file to write")]


@main.command
def inception(
    weights: Annotated[Path, means("torchvision's inception_v3, or pytorch-fid's pt_inception")],
    out: Out,
    /,
) -> str:
    """Inception v3, for the FID (eval.inception)."""
    from training.evaluation.perception import public

    return _written("inception", public.inception(weights), out)


@main.command
def lpips(
    backbone: Annotated[Path, means("torchvision's alexnet or vgg16")],
    heads: Annotated[Path, means("the lpips package's weights/v0.1/alex.pth or vgg.pth")],
    out: Out,
    /,
) -> str:
    """LPIPS, for the diversity of models with styles (eval.lpips)."""
    from training.evaluation.perception import public

    return _written("lpips", public.lpips(backbone, heads), out)


@main.command
def landmarks(
    weights: Annotated[Path, means("StarGAN v2's published file of CelebA-HQ, with a network fan")],
    out: Out,
    /,
) -> str:
    """StarGAN v2's landmark network, for its high-pass skips (landmarks)."""
    from training.inference import published

    said, digest = _stored("fan", published.landmarks(published.read(weights)), out)
    return f"{said}\nlandmarks={out}@{digest}"


def _written(field: str, converted: "Converted", out: Path) -> str:
    said, digest = _stored(converted.network, converted.tensors, out)
    return f"{said}; {converted.unused} of the classifier left out\neval.{field}={out}@{digest}"


def _stored(network: str, tensors: "Mapping[str, Tensor]", out: Path) -> tuple[str, str]:
    """Write the tensors; what is in the file, as text, and its SHA-256."""
    from training.evaluation.perception import stored

    if out.suffix != stored.SUFFIX:
        raise ValueError(f"{out}: the name must end in {stored.SUFFIX}")
    digest = stored.write(out, network, tensors)
    numbers = sum(tensor.numel() for tensor in tensors.values())
    return f"{network}: {len(tensors)} tensors, {numbers:,} numbers", digest


if __name__ == "__main__":
    cli.entry_point(main)
