"""The papers' own tests of a trained model, so that its numbers can stand beside theirs.

One file for each protocol: `expressions` (StarGAN), `attributes` (AttGAN and STGAN) and `styles`
(StarGAN v2). Which apply depends on a data set's labels, not on the model: the papers also measured
their rivals by them. None has a number for intensities.
"""

from training.core.config import EvalConfig
from training.data.dataset import Faces
from training.evaluation.judges.judge import Judge
from training.evaluation.papers.attributes import attributes
from training.evaluation.papers.expressions import expressions
from training.evaluation.papers.styles import styles
from training.evaluation.records import PaperResult
from training.evaluation.score import views
from training.inference.translator import Translator


def by_papers(
    translator: Translator, faces: Faces, train: Faces | None, judge: Judge, config: EvalConfig
) -> list[PaperResult]:
    """The numbers of every protocol that applies to the data sets, on the whole split.

    `train` has the training images, from which StarGAN v2's FID is. Raises ValueError if they are
    missing, and BrokenModelError as `score` does.
    """
    out = []
    for view in views(translator, faces, judge, config, whole=True):
        if view.labels.kind == "binary":
            out.append(attributes(translator, faces, judge, view))
        elif view.labels.kind == "onehot":
            out.append(expressions(translator, faces, judge, view, config))
            out.append(styles(translator, faces, train, judge, view, config))
    return out
