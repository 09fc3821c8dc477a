"""A model's edit as one network of named tensors: what an exported graph computes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from PIL import ImageOps
from torch import Tensor, nn

from training.data.dataset import to_float
from training.data.labels import LabelSet, LabelSpace
from training.data.synthetic.paint import celeba
from training.data.synthetic.people import Draws, person, snapshot
from training.inference.translator import Translator
from training.models.base import EditOptions

Style = Literal["latent", "reference"]
STYLES: tuple[Style, ...] = ("latent", "reference")


@dataclass(frozen=True)
class Input:
    """An input of the graph: float32, by rows; only `intensity` is one number for all rows."""

    name: str
    row: tuple[int, ...]  # shape of one image's part
    range: str
    meaning: str
    usual: float | None = None  # the value of an edit without options
    by_rows: bool = True

    def to_json(self) -> dict[str, Any]:
        shape = ["n", *self.row] if self.by_rows else []
        facts = {"name": self.name, "shape": shape, "type": "float32", "range": self.range}
        usual = {} if self.usual is None else {"usual": self.usual}
        return {**facts, **usual, "meaning": self.meaning}


def inputs(translator: Translator, style: Style = "latent") -> tuple[Input, ...]:
    """The graph's inputs in order.

    Raises ValueError for the style of a reference if the model takes none.
    """
    model, space, image = translator.model, translator.space, (3, *[translator.size] * 2)
    options, labels = model.supported_options, (space.dim_g,)
    if style not in STYLES:
        raise ValueError(f"style={style}: one of {', '.join(STYLES)}")
    if style == "reference" and "reference" not in options:
        name = translator.config["name"]
        raise ValueError(f"{name} takes no reference; leave --style out")
    mask = "; of one data set, whose mask is 1 and all else 0" if len(space.sets) > 1 else ""
    found = [
        Input("image", image, "-1 to 1", "RGB pictures: byte / 127.5 - 1"),
        Input("label", labels, "0 to 1", f"target labels, in the order of `labels`{mask}"),
    ]
    if model.reads_source:
        found.append(Input("source", labels, "0 to 1", f"the pictures' own labels{mask}"))
    if "intensity" in options:
        meaning = "factor on the labels that change, for all rows; training uses 1"
        found.append(
            Input("intensity", (), "any number", meaning, model.usual_intensity, by_rows=False)
        )
    if style == "reference":
        meaning = "RGB pictures of the target's class whose style the edits take"
        found.append(Input("reference", image, "-1 to 1", meaning))
    elif model.style_width:
        meaning = "styles, drawn at random"
        found.append(Input("latent", (model.style_width,), "standard normal", meaning))
    return tuple(found)


class Graph(nn.Module):
    """`Model.translate` with its inputs in the order of `inputs`: (n, 3, s, s) in [-1, 1]."""

    def __init__(self, translator: Translator, style: Style = "latent") -> None:
        super().__init__()
        self.inputs, self.model = inputs(translator, style), translator.model
        used = self.model.deployed(translator.nets)
        self.nets = nn.ModuleDict(
            {k: net for k, net in translator.nets.items() if used is None or k in used}
        )
        self.requires_grad_(False).eval()

    def forward(self, *values: Tensor) -> Tensor:
        given = dict(zip((one.name for one in self.inputs), values, strict=True))
        options = EditOptions(
            intensity=cast(float | None, given.get("intensity")),  # a tensor of one number
            latent=given.get("latent"),
            reference=given.get("reference"),
        )
        nets = cast(dict[str, nn.Module], self.nets)
        return self.model.translate(
            nets, given["image"], given.get("source"), given["label"], options
        )


def drawn(wanted: Sequence[Input], space: LabelSpace, n: int, seed: int = 0) -> dict[str, Tensor]:
    """Values of the inputs for `n` rows: drawn faces and noise in turn, valid edits."""
    g = torch.Generator().manual_seed(seed)
    sets = torch.randint(len(space.sets), (n,), generator=g).tolist()
    values = {}
    for one in wanted:
        if one.name in ("image", "reference"):
            values[one.name] = _images(n, one.row, f"{seed}/{one.name}", g)
        elif one.name == "label":
            values["label"] = torch.cat([_row(space, k, g) for k in sets])
        elif one.name == "source":
            rows = [_row(space, k, g) for k in sets]
            for i, k in enumerate(sets):
                while torch.equal(rows[i][0], values["label"][i]):  # every row is an edit
                    rows[i] = _row(space, k, g)
            values["source"] = torch.cat(rows)
        elif one.name == "intensity":
            values[one.name] = torch.tensor(one.usual)
        else:
            values[one.name] = torch.randn(n, *one.row, generator=g)
    return values


def _images(n: int, shape: tuple[int, ...], key: str, g: torch.Generator) -> Tensor:
    """Drawn faces and uniform noise in turn, (n, *shape) in [-1, 1]."""
    images = 2 * torch.rand(n, *shape, generator=g) - 1
    for row in range(0, n, 2):
        draws = Draws("export", key, row)
        face = celeba(snapshot(draws, person(draws, male=draws.chance(0.5))))
        pixels = np.asarray(ImageOps.fit(face, (shape[1], shape[2])))
        images[row] = to_float(torch.from_numpy(pixels.copy())[None])[0]
    return images


def _row(space: LabelSpace, index: int, g: torch.Generator) -> Tensor:
    """A valid c̃ (1, dim_g) of one data set."""
    return space.encode(_labels(space.sets[index], g)[None], index)


def _labels(part: LabelSet, g: torch.Generator) -> Tensor:
    """A valid row of labels (k,) of one data set."""
    names = part.names
    if part.kind == "continuous":
        return torch.rand(len(names), generator=g)
    if part.kind == "onehot":
        return torch.eye(len(names))[torch.randint(len(names), (), generator=g)]
    row = (torch.rand(len(names), generator=g) < 0.5).float()
    for group in part.exclusive:
        members = [names.index(name) for name in group]
        chosen = members[int(torch.randint(len(members), (), generator=g))]
        row[[member for member in members if member != chosen]] = 0
        if group in part.groups:  # without any, an edit may cross no pair of domains
            row[chosen] = 1
    return row


def expected(graph: Graph, values: Mapping[str, Tensor]) -> Tensor:
    """What torch computes, with the project's own kernels: the model's edit in eager mode."""
    with torch.no_grad():
        return cast(Tensor, graph(*(values[one.name] for one in graph.inputs)))
