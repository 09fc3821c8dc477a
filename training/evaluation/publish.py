"""An evaluation as stored files: metrics, details, the score table, the page and the pictures."""

from pathlib import Path

from training.core.files import write_json
from training.core.temporary import temporary_folder
from training.evaluation.cache import TABLE
from training.evaluation.numbers import flat
from training.evaluation.records import Evaluation
from training.storage.store import Manifest, Store


def publish(evaluation: Evaluation, page: str, store: Store) -> Manifest:
    """Store an evaluation and its HTML page; returns the manifest of kind "evaluation".

    Raises ValueError if a number is not finite.
    """
    with temporary_folder() as folder:
        root = Path(folder)
        write_json(root / "metrics.json", flat(evaluation))
        write_json(root / "details.json", evaluation.details())
        evaluation.table.to_parquet(root / TABLE, index=False)
        (root / "report.html").write_text(page, encoding="utf-8")
        names = ["metrics.json", "details.json", TABLE, "report.html"]
        files = {name: root / name for name in names}
        (root / "grids").mkdir()
        first, *others = evaluation.pictures
        for picture in (first._replace(name="samples.png"), *others):
            path = root / "grids" / picture.name
            path.write_bytes(picture.png)
            files[f"grids/{picture.name}"] = path
        rows = {TABLE: len(evaluation.table)}
        meta = evaluation.subject.to_json()
        return Manifest.build("evaluation", files, meta, rows=rows, store=store)
