"""The model card of a registered version: use, data, scores, limits and licence."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, StrictUndefined

from training.core.names import markdown
from training.data.labels import LabelSpace, label_names
from training.registry.lineage import Lineage

# Terms of data sets, which also apply to weights trained on them; see the sources for details.
LICENCES = {
    "celeba": "CelebA: non-commercial research only; no redistribution of the images; "
    "the people shown have not agreed to any other use.",
    "rafd": "Radboud Faces Database: scientific research with its owners' consent; published "
    "pictures of some subjects only.",
    "folders": "The user's own pictures: their rights and the consent of the people shown apply.",
    "csv": "The user's own pictures: their rights and the consent of the people shown apply.",
}

MOST = 5_000  # characters of a version's description in MLflow's databases; SQLite takes more
LEFT_OUT = "\n*More in README.md among this version's files.*\n\n"

# How to pass each edit option to `predict`.
OPTIONS = {
    "intensity": '`{"intensity": 1.5}`, a factor on labels that change',
    "seed": '`{"seed": 7}`, the seed of a random style',
    "reference": '`{"reference": other.ravel().tolist()}`, the style of another image',
}

# autoescape is off: the card is Markdown, and names go through `markdown`
_CARD = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(  # noqa: S701
    """# {{ name }}: {{ config.name }}, preset {{ config.preset }}

Translates an image of {{ config.size }}×{{ config.size }} px to the given target labels.
**Its outputs are synthetic images that do not show real people as they are. Label them as
synthetic wherever they are shown.**

## Use

For demonstrations and research on image translation. Not for identifying, judging or deceiving
people, not for decisions about them, and not for editing pictures of people without their
consent. The labels are those of the data set; their validity for real people is doubtful.

```python
import mlflow, numpy as np
from PIL import Image
model = mlflow.pyfunc.load_model("models:/{{ name }}@champion")
picture = Image.open("image.png").convert("RGB").resize(({{ config.size }}, {{ config.size }}))
image = np.asarray(picture, np.float32).transpose(2, 0, 1)[None] / 127.5 - 1
label = np.array([[{{ example }}]], np.float32)  # {{ code_labels }}
{% if source %}
source = np.zeros_like(label)  # the labels of the input image, in the same order
{% endif %}
given = {"image": image, "label": label{{ ', "source": source' if source }}}
out = model.predict(given)[0].transpose(1, 2, 0)
Image.fromarray(((out + 1) * 127.5).round().clip(0, 255).astype(np.uint8)).save("edited.png")
```

Labels, in order: {{ labels | join(", ") }}.
{% if options %}
`predict(given, params={…})` also accepts {{ options | join("; ") }}.
{% endif %}
{% if masked %}
With several data sets, set the labels of one and its mask to 1, and leave all others 0.
{% endif %}

## Data

| data set | labels | kind | train | val | test |
| --- | --- | --- | --- | --- | --- |
{% for row in data %}
| {{ row | join(" | ") }} |
{% endfor %}

{% if lineage.imported %}
Imported weights, not trained with this project: their training images, seed and training are not
known to it.
{% else %}
Raw data {{ lineage.data_md5 }} (revision {{ lineage.revision }}), dataset manifest
{{ lineage.dataset }}.
{% endif %}

## Measured on held-out images

{% if lineage.imported %}
Not when they were imported. `python -m training.evaluate` measures them on data of yours; whether
they were trained on its images is not known.
{% else %}
Judge {{ lineage.judge }}, evaluation {{ lineage.evaluation }}. Metrics whose names begin with
`paper_` are by the protocol of the paper that they name, all others by this project's own.

| metric | value |
| --- | --- |
{% for key, value in metrics %}
| {{ key }} | {{ "%.4f" | format(value) }} |
{% endfor %}
{% if groups %}

By group of the people shown, single edits, with 95 % intervals over people; groups of fewer than
three people are not scored. The largest gaps are the metrics `gap_…`.

| data set | label | group | people | success | others kept | identity cosine | change elsewhere |
| --- | --- | --- | --- | --- | --- | --- | --- |
{% for row in groups %}
| {{ row | join(" | ") }} |
{% endfor %}
{% endif %}
{% endif %}

## Limits

- Quality is lower on images with other sources, poses, crops or lighting than the training data.
- Labels that are correlated in the data (such as age and hair colour) change together.
- Success is measured by a classifier, which superficial changes can satisfy. Check the worst
  edit, preservation and the pictures, too.
- The data is not representative of any population; quality differs between groups of people{{
  " (see above)" if groups }}.

## Licence note

{% if lineage.imported %}
The weights are those of others: their licence applies, often for non-commercial use only, and so
do the terms of their training data. Read them where you got the files.
{% else %}
The weights are subject to the terms of their training data. Drawn demo faces have none.
{% endif %}
{% for line in licences %}
- {{ line }}
{% endfor %}

## Provenance

{% if lineage.imported %}
Imported from {{ sources }}.

{% endif %}
git {{ lineage.git_commit }}{{ " with local changes" if lineage.git_dirty }}, code
{% if lineage.imported %}
{{ lineage.code_hash }}, packages {{ lineage.lock_hash }}.
{% else %}
{{ lineage.code_hash }}, seed {{ lineage.seed }}, {{ config.train.images }} images drawn,
pipeline run {{ lineage.pipeline_run }}, packages {{ lineage.lock_hash }}.
{% endif %}
"""
)


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
    options: Sequence[str] = (),
    groups: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The card as Markdown. `kinds`: layout by data set; `counts`: images by (data set, split).

    `source`: whether the model takes the input's labels; `options`: its supported edit options.
    `groups`: the scores by group of people of a details.json. Of imported weights `metrics` and
    `counts` are empty.
    """
    example = [1.0] + [0.0] * (space.dim_g - 1)
    if len(space.sets) > 1:
        example[space.dim_d] = 1.0
    none = "unknown" if lineage.imported else 0
    data = [
        [markdown(part.name), len(part.names), part.kind]
        + [counts.get((part.name, split), none) for split in ("train", "val", "test")]
        for part in space.sets
    ]
    layouts = sorted({kinds.get(part.name, part.name) for part in space.sets})
    terms = [LICENCES.get(kind, f"{markdown(kind)}: the terms of its source.") for kind in layouts]
    return _CARD.render(
        name=name,
        config=config,
        lineage=lineage,
        sources=markdown(lineage.sources),
        labels=[markdown(label) for label in label_names(space)],
        code_labels=", ".join(label_names(space)).replace("`", "").replace("\n", " "),
        example=", ".join(f"{value:g}" for value in example),
        masked=len(space.sets) > 1,
        source=source,
        options=[OPTIONS[name] for name in options],
        data=data,
        metrics=sorted(metrics.items()),
        groups=[_group(row) for row in groups],
        licences=terms,
    )


def description(text: str) -> str:
    """The card within `MOST` characters: the longest sections lose their last lines."""
    parts = re.split(r"(?m)^(?=## )", text)
    while (over := sum(map(len, parts)) - MOST) > 0:
        longest = max(range(len(parts)), key=lambda i: len(parts[i]))
        kept = parts[longest][: -(over + len(LEFT_OUT))]
        parts[longest] = kept[: kept.rfind("\n") + 1] + LEFT_OUT
    return "".join(parts)


def _group(row: Mapping[str, Any]) -> list[str]:
    """The cells of one group's scores."""
    names = [markdown(str(row[name])) for name in ("dataset", "label", "group")]
    cells = [
        "{:.3f} [{:.3f} – {:.3f}]".format(*row["scores"][name]) if name in row["scores"] else "–"
        for name in ("success", "preservation", "identity", "background")
    ]
    return [*names, str(row["people"]), *cells]
