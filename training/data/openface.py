"""OpenFace's action-unit intensities and the images that they belong to."""

import io
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from training.data.labels import UNITS
from training.data.tables import FILE_COLUMNS, sniff

CONFIDENCE = 0.88  # OpenFace's authors drop faces below it
HIGHEST = 5.0  # intensities lie in 0 … 5


@dataclass(frozen=True)
class Units:
    """One openface.csv.

    rows: line, file as written, image ("" if none matches), kept (success = 1 and
    confidence ≥ 0.88), confidence, then the intensities in the header (NaN: not a number).
    """

    name: str
    format: str  # "csv", or the fault of the file
    rows: pd.DataFrame
    missing: tuple[str, ...] = ()  # columns that the header lacks
    unmatched_reason: str = ""  # why rows cannot be matched to images

    def by_image(self) -> pd.DataFrame:
        """Intensities by image name, of the most confident face in each image."""
        kept = self.rows[self.rows["kept"] & (self.rows["image"] != "")]
        kept = kept.sort_values("confidence", ascending=False, kind="stable")
        return kept.drop_duplicates("image").set_index("image")[list(UNITS)].astype("float64")

    def problem(self) -> str:
        """Why the file cannot be used; "" if it can."""
        if self.format != "csv":
            return f"{self.name}: a {self.format} file, not OpenFace's CSV; fetch it again"
        if self.missing:
            return f"{self.name}: no column {', '.join(self.missing)}; run OpenFace with -aus"
        if self.unmatched_reason:
            return f"{self.name}: {self.unmatched_reason}"
        unmatched = self.rows[self.rows["image"] == ""]
        if len(unmatched):
            return (
                f"{self.name}: {len(unmatched)} rows name no image, first line "
                f"{unmatched['line'].iloc[0]} ({unmatched['file'].iloc[0]}); correct the names"
            )
        used = self.rows[self.rows["kept"]]
        for unit in UNITS:
            wrong = used[~used[unit].between(0, HIGHEST)]
            if len(wrong):
                return (
                    f"{self.name}: {len(wrong)} values of {unit} are not in 0 … 5, first line "
                    f"{wrong['line'].iloc[0]}: {wrong[unit].iloc[0]}; run OpenFace again"
                )
        return ""


def read_units(name: str, data: bytes, images: list[str], find: Callable[[str], str]) -> Units:
    """Read OpenFace's CSV without validating it.

    Rows are matched to images by a column `file` (or image_id, filename, image) if there is one;
    else by `frame`, counted from 1 over the sorted images; else by their order, if there are as
    many rows as images.
    """
    kind = sniff(data)
    empty = pd.DataFrame({"line": [], "file": [], "image": [], "kept": [], "confidence": []})
    if kind != "text":
        return Units(name, kind, empty)
    columns = {"frame", "success", "confidence", *FILE_COLUMNS, *(f"{unit}_r" for unit in UNITS)}
    try:
        table = pd.read_csv(
            io.BytesIO(data),
            skipinitialspace=True,
            usecols=lambda column: column.strip() in columns,
            dtype="str",
            keep_default_na=False,
        )
    except (pd.errors.ParserError, UnicodeDecodeError, ValueError) as error:
        return Units(name, f"broken ({error})", empty)
    table.columns = [column.strip() for column in table.columns]
    needed = ("success", "confidence", *(f"{unit}_r" for unit in UNITS))
    missing = tuple(column for column in needed if column not in table.columns)
    files, unmatched_reason = _files(table, images)
    numbers = {c: pd.to_numeric(table[c], errors="coerce") for c in needed if c in table.columns}
    rows = pd.DataFrame({"line": range(2, len(table) + 2), "file": files})
    rows["image"] = [find(file.strip()) if file else "" for file in files]
    confidence = numbers.get("confidence", pd.Series(0.0, index=table.index))
    rows["confidence"] = confidence.astype("float64")
    rows["kept"] = (confidence >= CONFIDENCE) & (numbers.get("success", confidence) == 1)
    for unit in UNITS:
        if f"{unit}_r" in numbers:
            rows[unit] = numbers[f"{unit}_r"].astype("float64")
    return Units(name, "csv", rows, missing, unmatched_reason)


def _files(table: pd.DataFrame, images: list[str]) -> tuple[list[str], str]:
    """The image of each row, and why they cannot be matched ("" if they can)."""
    for column in FILE_COLUMNS:
        if column in table.columns:
            return list(table[column].str.strip()), ""
    if "frame" in table.columns:
        frames = pd.to_numeric(table["frame"], errors="coerce").fillna(0).astype("int64")
        named = [images[f - 1] if 0 < f <= len(images) else "" for f in frames]
        if frames.max() <= 1 < len(table):  # OpenFace ran once per image, so every frame is 1
            named = images
        if len(named) == len(table):
            return named, ""
    if len(table) == len(images):
        return images, ""
    text = f"{len(table)} rows for {len(images)} images and no column `file`; add that column"
    return [""] * len(table), text
