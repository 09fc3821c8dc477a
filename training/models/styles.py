"""Styles of the models whose edits take a latent or a reference image."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from training.data.batch import Batch
from training.data.labels import LabelSpace
from training.models.base import EditOptions, Nets, Preview
from training.models.pairs import Pair, split


def fixed_latent(like: Tensor, width: int, seed: int | tuple[int, ...] = 0) -> Tensor:
    """Latents (n, width) for n images `like`: the same from one seed, one each from n seeds."""
    seeds = seed if isinstance(seed, tuple) else (seed,)
    z = [torch.randn(width, generator=torch.Generator().manual_seed(one)) for one in seeds]
    return torch.stack(z).to(like.device).expand(len(like), -1)


def latent_of(options: EditOptions, like: Tensor, width: int) -> Tensor:
    """Latents (n, width) of the options for n images `like`; without any those of seed 0."""
    if options.latent is not None:
        return options.latent
    return fixed_latent(like, width, options.seed or 0)


def of_rows(options: EditOptions, rows: Tensor) -> EditOptions:
    """The options of the images in `rows` (n,) bool, whose styles may differ."""
    if torch.compiler.is_exporting():  # `chained` passes all of them
        return options
    reference, latent, seed = options.reference, options.latent, options.seed
    if isinstance(seed, tuple) and len(seed) > 1:
        seed = tuple(one for one, chosen in zip(seed, rows.tolist(), strict=True) if chosen)
    return replace(
        options,
        seed=seed,
        reference=None if reference is None else reference[rows],
        latent=None if latent is None else latent[rows],
    )


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


def directed_previews(
    nets: Nets,
    batch: Batch,
    space: LabelSpace,
    pairs: Sequence[Pair],
    edited: Callable[[Nets, str, Tensor, EditOptions], Tensor],
) -> dict[str, Preview]:
    """`style_preview` for both directions of each pair: up to four images and three references.

    `edited`: the edit of images in a direction, such as "ab0".
    """
    names, out = space.sets[batch.dataset].names, {}
    for k, pair in enumerate(pairs):
        a, b = split(batch.source, pair)
        second = names[pair.b] if pair.b >= 0 else f"{names[pair.a]}=0"
        for direction, here, there, name in (("ab", a, b, second), ("ba", b, a, names[pair.a])):
            x, references = batch.image[here][:4], batch.image[there][:3]
            if len(x):
                edit = partial(edited, nets, f"{direction}{k}", x)
                picture = style_preview(name, x, references, edit)
                out[f"styles_{k + 1}_{direction}"] = picture
    return out
