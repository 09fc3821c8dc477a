"""The few numbers by which runs are compared, in groups, from the many of an evaluation.

MLflow's charts have a section for each part before a slash. The evaluation's own names stay as they
are: gates, cards, comparisons and older runs have them.
"""

from collections.abc import Mapping

GROUPS = {  # name -> the evaluation's name; see `training.evaluation.records.Summary`
    "score/success": "success_mean",
    "score/success_low": "success_low",
    "score/success_high": "success_high",
    "edits/worst": "success_worst",
    "edits/combined": "success_combined",
    "edits/error": "error_mean",
    "kept/other_labels": "preservation_mean",
    "kept/identity": "identity_cosine",
    "kept/psnr": "self_psnr",
    "realism/raster": "raster",
    "realism/background": "background",
    "realism/likeness": "likeness",
    "realism/kid_ratio": "kid_vgg_ratio",
    "cost/parameters": "parameters",
    "cost/images_per_second": "images_per_second_1",
}
TRAINING = {"cost/training_memory_mib": "memory_mib", "cost/price": "cost"}


def headline(metrics: Mapping[str, float], training: Mapping[str, float]) -> dict[str, float]:
    """The numbers that were measured, by group and name.

    `metrics` are those of `numbers.flat`; `training` the totals of the training's log, whose
    seconds become minutes.
    """
    found = {name: metrics[old] for name, old in GROUPS.items() if old in metrics}
    found |= {name: training[old] for name, old in TRAINING.items() if old in training}
    if "seconds" in training:
        found["cost/minutes"] = training["seconds"] / 60
    return found
