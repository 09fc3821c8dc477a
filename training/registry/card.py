"""The model card: what a registered model is, can and must not be used for."""

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, StrictUndefined

from training.data.labels import LabelSpace, label_names
from training.registry.lineage import Lineage

# Terms of the data sets that weights trained on them fall under; read them at the source.
LICENCES = {
    "celeba": "CelebA: non-commercial research only; no redistribution of the images; "
    "the pictured people have not agreed to anything else.",
    "rafd": "Radboud Faces Database: scientific research with its owners' consent; published "
    "pictures of some subjects only.",
    "folders": "The user's own pictures: their rights and the consent of the people shown apply.",
    "csv": "The user's own pictures: their rights and the consent of the people shown apply.",
}

# How a model is asked for more than labels, by the name of what it takes.
TAKES = {
    "intensity": '`{"intensity": 1.5}`, a factor on labels that change',
    "seed": '`{"seed": 7}`, another style',
    "reference": '`{"reference": other.ravel().tolist()}`, the style of another image',
}

# autoescape is off: the card is Markdown, and names go through `_plain`
_CARD = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(  # noqa: S701
    """# {{ name }}: {{ config.name }}, preset {{ config.preset }}

Translates an image of {{ config.size }}×{{ config.size }} px to asked-for labels.
**Its outputs are synthetic images: they show nobody as they are. Mark them as such wherever they
are shown.**

## Use

For demonstrations and research on image translation. Not for identifying, judging or deceiving
people, not for deciding anything about them, and not for editing anybody's picture without their
consent. The labels are those of the data set and of doubtful meaning for real people.

```python
import mlflow, numpy as np
from PIL import Image
model = mlflow.pyfunc.load_model("models:/{{ name }}@champion")
picture = Image.open("image.png").convert("RGB").resize(({{ config.size }}, {{ config.size }}))
image = np.asarray(picture, np.float32).transpose(2, 0, 1)[None] / 127.5 - 1
label = np.array([[{{ example }}]], np.float32)  # {{ code_labels }}
{% if source %}
source = np.zeros_like(label)  # what the image shows already, in the same order
{% endif %}
given = {"image": image, "label": label{{ ', "source": source' if source }}}
out = model.predict(given)[0].transpose(1, 2, 0)
Image.fromarray(((out + 1) * 127.5).round().clip(0, 255).astype(np.uint8)).save("edited.png")
```

Labels, in order: {{ labels | join(", ") }}.
{% if takes %}
`predict(given, params={…})` takes, too, {{ takes | join("; ") }}.
{% endif %}
{% if masked %}
With more than one data set, set the labels of one, leave the others 0, and set its mask to 1.
{% endif %}

## Data

| data set | labels | kind | train | val | test |
| --- | --- | --- | --- | --- | --- |
{% for row in data %}
| {{ row | join(" | ") }} |
{% endfor %}

Raw data {{ lineage.data_md5 }} (revision {{ lineage.revision }}), dataset manifest
{{ lineage.dataset }}.

## Measured on held-out images

Judge {{ lineage.judge }}, evaluation {{ lineage.evaluation }}.

| metric | value |
| --- | --- |
{% for key, value in metrics %}
| {{ key }} | {{ "%.4f" | format(value) }} |
{% endfor %}

## Limits

- Images from other sources, poses, crops or lighting than the training data are edited worse.
- Labels that go together in the data (age and hair colour, say) change together.
- Success is what a classifier sees; a painted-on colour can pass it. Look at the worst attribute,
  preservation and the pictures, too.
- People, where the data shows them, are not shown in their shares of any population; quality
  differs between groups.

## Licence note

The weights fall under the terms of the data they were trained on. Drawn demo faces carry none.
{% for line in licences %}
- {{ line }}
{% endfor %}

## Made by

git {{ lineage.git_commit }}{{ " with local changes" if lineage.git_dirty }}, code
{{ lineage.code_hash }}, seed {{ lineage.seed }}, {{ config.train.images }} images seen, pipeline
run {{ lineage.pipeline_run }}, packages {{ lineage.lock_hash }}.
"""
)


def _plain(text: str) -> str:
    """A name as Markdown text: nothing in it is markup."""
    for sign in "\\`*_{}[]<>#|":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())


def card(
    name: str,
    config: Mapping[str, Any],
    space: LabelSpace,
    lineage: Lineage,
    metrics: Mapping[str, float],
    kinds: Mapping[str, str],
    counts: Mapping[tuple[str, str], int],
    *,
    source: bool = False,
    takes: Sequence[str] = (),
) -> str:
    """Markdown. `kinds`: layout of each data set; `counts`: images by (data set, split).

    `source`: whether the model is told the labels that an image has already; `takes`: what else.
    """
    example = [1.0] + [0.0] * (space.dim_g - 1)
    if len(space.sets) > 1:
        example[space.dim_d] = 1.0
    data = [
        [_plain(part.name), len(part.names), part.kind]
        + [counts.get((part.name, split), 0) for split in ("train", "val", "test")]
        for part in space.sets
    ]
    layouts = sorted({kinds.get(part.name, part.name) for part in space.sets})
    terms = [LICENCES.get(kind, f"{_plain(kind)}: the terms of its source.") for kind in layouts]
    return _CARD.render(
        name=name,
        config=config,
        lineage=lineage,
        labels=[_plain(label) for label in label_names(space)],
        code_labels=", ".join(label_names(space)).replace("`", "").replace("\n", " "),
        example=", ".join(f"{value:g}" for value in example),
        masked=len(space.sets) > 1,
        source=source,
        takes=[TAKES[name] for name in takes],
        data=data,
        metrics=sorted(metrics.items()),
        licences=terms,
    )
