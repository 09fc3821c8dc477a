"""Styles of the models whose edits take a latent or a reference image."""

from collections.abc import Callable

import torch
from torch import Tensor

from training.models.base import EditOptions, Preview


def fixed_latent(like: Tensor, width: int, seed: int | tuple[int, ...] = 0) -> Tensor:
    """Latents (n, width) for n images `like`: the same from one seed, one each from n seeds."""
    seeds = seed if isinstance(seed, tuple) else (seed,)
    z = [torch.randn(width, generator=torch.Generator().manual_seed(one)) for one in seeds]
    return torch.stack(z).to(like.device).expand(len(like), -1)


def style_preview(
    name: str, x: Tensor, references: Tensor, edit: Callable[[EditOptions], Tensor]
) -> Preview:
    """Edits of images x (n, 3, s, s) to the domain `name`, by style.

    The styles are those of three seeds and of `references` (k, 3, s, s), which the first row shows.
    """
    styles = [EditOptions(seed=seed) for seed in range(3)]
    styles += [EditOptions(reference=one.expand_as(x)) for one in references]
    edits = [edit(style) for style in styles]
    white = torch.ones_like(x[:1])
    top = torch.cat([white.expand(4, -1, -1, -1), references])
    titles = ["seed 0", "seed 1", "seed 2", *["reference"] * len(references)]
    columns = ("input", *(f"{name}, {title}" for title in titles))
    caption = f"{name}: latent styles, and styles of the reference images in the first row."
    images = torch.cat([top[None], torch.stack([x, *edits], 1)])
    return Preview(images, columns, caption)
