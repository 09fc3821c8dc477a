"""The voters' page and its key, made from several models' edits."""

from collections.abc import Callable, Sequence

from training.data.dataset import Faces
from training.inference.translator import Translator
from training.rendering import html
from training.voting.questions import MOST, Wanted, study_of
from training.voting.study import SCHEMA, Compared, Key, digest, payload

Load = Callable[[], Translator]


def check_models(models: Sequence[Compared]) -> None:
    """Raise ValueError unless there are 2 to `MOST` models of different names."""
    names = [model.name for model in models]
    if len(set(names)) != len(names) or not 2 <= len(names) <= MOST:
        raise ValueError(
            f"--model: {', '.join(names)}; 2 to {MOST} models of different names are needed"
        )


def make(
    faces: Faces,
    dataset: int,
    models: Sequence[tuple[Compared, Load]],
    wanted: Wanted,
    title: str,
    digest_of_data: str,
) -> tuple[str, Key]:
    """The page as HTML and its key; the models edit one after another.

    Raises ValueError as `questions.study_of` does.
    """
    named = [(model.name, load) for model, load in models]
    rows, blocks, pictures = study_of(faces, dataset, named, wanted)
    shown = payload(title, blocks, pictures)
    key = Key(
        SCHEMA, digest(shown), title, wanted.seed, [model for model, _ in models], digest_of_data,
        faces.split, rows, blocks,
    )  # fmt: skip
    return html.render("ballot", title=title, study={**shown, "study": key.study}), key
