"""Divide the preprocessing into parts that can run at the same time, each in its own pod."""

from typing import Any

from training.core.config import PreprocessConfig, from_json


def parts(preprocess_config: str, data_config: str, code_hash: str) -> list[dict[str, Any]]:
    """The items of the pipeline's loop: the arguments of `preprocess_part`, one item a part.

    `code_hash` is part of an item, and so of its cache key. There is always at least one item: some
    Kubeflow versions never end an empty loop.
    """
    count = from_json(PreprocessConfig, preprocess_config).workers
    shared = {"data_config": data_config, "code_hash": code_hash, "parts": count}
    return [{"part": part, **shared} for part in range(count)]
