"""The rules for raw data: named expectations for Great Expectations, stored as plain data.

A failed critical rule stops the run; a warning is reported. Each rule checks one frame, and the
frames are built so that one fault breaks one rule. Sizes: crops scale with the image, so a smaller
copy of CelebA passes; its aspect ratio must be that of the aligned pictures.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from training.core.config import DataConfig
from training.data.crop import CELEBA, MIN_SIDE, RAFD
from training.data.layouts import EXPRESSIONS, RAFD_NAME, RawDataset
from training.data.openface import HIGHEST, UNITS
from training.data.pictures import CONVERT, FORMATS, MAX_PIXELS
from training.data.sources import class_fix, like, value_fix
from training.data.tables import TABLES, fix

Severity = Literal["critical", "warning"]
OFFICIAL_SIZES = {"celeba": CELEBA, "rafd": RAFD}  # (width, height) px
ASPECT_TOLERANCE = 0.05  # of the data set's width / height


@dataclass(frozen=True)
class Check:
    """The name of a Great Expectations class, and its arguments."""

    kind: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Rule:
    """A named rule for one frame: its severity, the fault that it finds and the fix."""

    name: str
    frame: str
    severity: Severity
    fault: str
    fix: str
    checks: tuple[Check, ...]


def rules(raw: RawDataset, frames: Mapping[str, pd.DataFrame], config: DataConfig) -> list[Rule]:
    """The rules for a data set of this kind, limited to its non-empty frames."""
    found = [*_tables(raw), *_labels(raw), *_images(raw, config), *_units(), *_balance(raw)]
    if raw.kind == "rafd":
        found += _rafd(config)
    if raw.kind == "folders":
        found += _folders()
    if raw.classes and raw.kind != "rafd" and not raw.layout:
        found += _classes(raw)
    return [rule for rule in found if len(frames.get(rule.frame, ())) or rule.name in _ON_EMPTY]


_ON_EMPTY = ("images_found",)


def _in(column: str, values: Iterable[Any], **more: Any) -> Check:
    return Check(
        "ExpectColumnValuesToBeInSet", {"column": column, "value_set": list(values), **more}
    )


def _known(column: str) -> Check:
    return Check("ExpectColumnValuesToNotBeNull", {"column": column})


def _unique(column: str) -> Check:
    return Check("ExpectColumnValuesToBeUnique", {"column": column})


def _equal(a: str, b: str) -> Check:
    arguments = {"column_A": a, "column_B": b, "ignore_row_if": "either_value_is_missing"}
    return Check("ExpectColumnPairValuesToBeEqual", arguments)


def _between(column: str, low: float | None, high: float | None) -> Check:
    arguments = {"column": column, "min_value": low, "max_value": high}
    return Check("ExpectColumnValuesToBeBetween", arguments)


def _tables(raw: RawDataset) -> list[Rule]:
    """Rules for label files: readable, complete tables with the required columns."""
    forms = [table.format for table in raw.tables.values()]
    forms += [raw.units.format] if raw.units is not None else []
    fixes = dict.fromkeys(fix(form) for form in forms if form not in TABLES)
    return [
        Rule("label_file_found", "tables", "critical", "a label file is missing",
             "put it beside the images", (_known("file"),)),
        Rule("label_file_format", "tables", "critical", "a label file is not a table",
             "; ".join(fixes) or "fetch it again", (_in("format", TABLES),)),
        Rule("count_line", "counts", "critical", "the count line is missing",
             "put the number of rows on line 1, or fetch the file again", (_known("stated"),)),
        Rule("count_matches_rows", "counts", "critical",
             "the count line is not the number of rows: the file is truncated or was edited",
             "fetch it again, or correct line 1", (_equal("stated", "rows"),)),
        Rule("row_width", "ragged", "critical", "rows are wider or narrower than the header",
             "complete the rows, or fetch the file again", (_equal("fields", "expected"),)),
        Rule("file_column", "headers", "critical", "no column holds the image names",
             "name that column `file`", (_in("has_file", [True]),)),
        Rule("label_columns", "needed", "critical", "a required label column is missing",
             "set data.attributes to columns of this file, or correct the header",
             (_in("status", ["present"]),)),
        Rule("one_row", "repeated", "critical",
             "images have several rows in the partition or identity file", "keep one row",
             (_in("earlier", [False]),)),
        Rule("label_columns_unique", "columns", "critical", "a column name occurs twice",
             "rename one of them", (_unique("column"),)),
        Rule("final_newline", "tables", "warning",
             "the last line has no line end: the file may be truncated",
             "compare the file's size or md5 with its source", (_in("final_newline", [True]),)),
    ]  # fmt: skip


def _labels(raw: RawDataset) -> list[Rule]:
    """Rules for names, values, splits and persons of the label rows."""
    values = tuple(_in(column, raw.domain) for column in raw.columns.checked)
    found = [
        Rule("file_names_inside", "labels", "critical", "file names point outside the data folder",
             f"write them as in the folder{like(raw)}", (_in("inside", [True]),)),
        Rule("file_names_unique", "labels", "critical", "images are listed more than once",
             "keep one row for each image", (_unique("name"),)),
        Rule("image_of_row", "labels", "critical", "rows whose image is missing",
             f"add the images, remove the rows, or write the names as in the folder{like(raw)}",
             (_known("found"),)),
        Rule("label_values", "labels", "critical",
             f"label values other than {' and '.join(raw.domain[::2])}",
             value_fix(raw), values),
        Rule("part_known", "labels", "critical", "images that the partition file does not list",
             "complete the partition file", (_known("part"),)),
        Rule("part_values", "labels", "critical", "splits other than train, validation and test",
             "use 0, 1, 2 in CelebA's file and train, val, test in a CSV",
             (_in("part", ["train", "val", "test", ""]),)),
        Rule("identity_in_one_part", "identities", "critical", "persons are in more than one split",
             "fetch the partition and identity files again", (_between("parts", None, 1),)),
    ]  # fmt: skip
    if raw.kind != "rafd":
        found.append(
            Rule("identity_known", "labels", "critical",
                 "images that the identity file does not list",
                 "complete the identity file", (_known("identity"),))
        )  # fmt: skip
    return [rule for rule in found if rule.checks]


def _images(raw: RawDataset, config: DataConfig) -> list[Rule]:
    """Rules for image files: headers, decoding and content."""
    official_size = OFFICIAL_SIZES.get(raw.kind)
    strict: Severity = "critical" if official_size else "warning"
    found = [
        Rule("images_found", "images", "critical", "no image found", "check the folder's layout",
             (Check("ExpectTableRowCountToBeBetween", {"min_value": 1}),)),
        Rule("picture_read", "readable", "critical",
             f"more than bad_share={config.bad_share:.2%} of the pictures are in formats that are "
             "not read", "save them as JPEG or PNG, remove them, or raise bad_share",
             (_in("read", [True], mostly=1 - config.bad_share),)),
        Rule("row_of_image", "images", "critical", "images without a row in the label file",
             "add rows for them, or remove them", (_in("labelled", [True]),)),
        Rule("image_format", "images", "critical",
             "files with an image suffix are not images, or in a format that is not read",
             "fetch them again, for git-annex or git-lfs with `git annex get` or `git lfs pull`; "
             "save pictures of other formats (heic, avif) as JPEG",
             (_in("format", [form.lower() for form in FORMATS]),)),
        Rule("image_pixels", "images", "critical", f"images over {MAX_PIXELS:,} pixels",
             "scale them down or remove them", (_between("pixels", None, MAX_PIXELS),)),
        Rule("image_decodes", "images", "critical",
             f"more than bad_share={config.bad_share:.2%} of the images do not decode",
             "fetch them again, remove them, or raise bad_share",
             (_in("error", [""], mostly=1 - config.bad_share),)),
        Rule("image_side", "images", "critical", f"the face would be under {MIN_SIDE} px wide",
             "use larger images", (_between("side", MIN_SIDE, None),)),
        Rule("image_mode", "images", strict,
             "images are not RGB" + ("" if official_size else " and are converted"),
             "convert them to RGB", (_in("mode", ["RGB"]),)),
        Rule("image_alpha", "images", "warning",
             "images with an alpha channel are composed on white",
             f"{CONVERT} with the background that you want", (_in("alpha", [False]),)),
        Rule("image_frames", "images", "warning",
             "files with several pictures: only the first of each is used",
             "save the pictures as separate files", (_in("frames", [False]),)),
        Rule("image_decodes_all", "images", "warning", "images that do not decode are left out",
             "fetch them again", (_in("error", [""]),)),
        Rule("image_resolution", "images", "warning",
             f"images are enlarged to the training size of {config.load or config.size} px",
             "use larger images or a smaller size",
             (_between("side", config.load or config.size, None),)),
        Rule("image_content_unique", "images", "warning", "images with the same bytes",
             "remove the copies", (_unique("sha256"),)),
        Rule("image_content_in_one_class", "images", "critical",
             "images with the same bytes are in several classes",
             "keep each image in one class; for several labels of an image use kind csv with a "
             "0/1 column for each label", (_between("classes", None, 1),)),
        Rule("image_content_in_one_part", "images", "warning", "images are in several splits",
             "remove the copies from all but one split", (_between("parts", None, 1),)),
    ]  # fmt: skip
    if official_size:
        width, height = official_size
        low, high = (width / height * (1 + sign * ASPECT_TOLERANCE) for sign in (-1, 1))
        found += [
            Rule("image_shape", "images", "critical",
                 f"images of another size and shape than the data set's {width}x{height}",
                 "check which pictures these are; use kind folders or csv for your own pictures",
                 (_between("aspect", low, high),)),
            Rule("image_size", "images", "warning", f"images are not {width}x{height}",
                 "none needed for a scaled copy", (_in("size", [f"{width}x{height}"]),)),
        ]  # fmt: skip
    return found


def _units() -> list[Rule]:
    """Rules for OpenFace's action units."""
    return [
        Rule("unit_rows", "tables", "critical", "openface.csv has a header and no rows",
             "run OpenFace on the images", (_between("rows", 1, None),)),
        Rule("unit_columns", "unit columns", "critical", "openface.csv lacks columns",
             "run OpenFace with -aus, or correct the header", (_in("present", [True]),)),
        Rule("unit_image", "units", "critical", "rows of openface.csv that match no image",
             "add a column `file`, or remove the rows", (_known("found"),)),
        Rule("unit_numbers", "kept units", "critical", "action units that are not numbers",
             "run OpenFace again", (_between("numbers", len(UNITS), None),)),
        Rule("unit_range", "kept units", "critical", "action units outside 0 … 5",
             "use the intensities `AU.._r` as OpenFace writes them",
             tuple(_between(unit, 0.0, HIGHEST) for unit in UNITS)),
        Rule("unit_confidence", "units", "warning",
             "over 10 % of the rows lack success or confidence and are left out",
             "check these images", (_in("kept", [True], mostly=0.9),)),
    ]  # fmt: skip


def _balance(raw: RawDataset) -> list[Rule]:
    return [
        Rule("class_balance", "classes", "warning", "rare classes or almost constant labels",
             "collect more such images, or leave the label out",
             (Check("ExpectColumnPairValuesAToBeGreaterThanB",
                    {"column_A": "share", "column_B": "least", "or_equal": True}),)),
        Rule("hair_exclusive", "hair", "warning", "over 5 % of the faces have several hair colours",
             "check the labels", (Check("ExpectColumnValuesToBeBetween",
                                        {"column": "colours", "max_value": 1, "mostly": 0.95}),)),
    ]  # fmt: skip


def _rafd(config: DataConfig) -> list[Rule]:
    plain = re.sub(r"\(\?P<\w+>", "(?:", RAFD_NAME)
    plain = re.sub(r"\((?!\?)", "(?:", plain)
    contains = "ExpectColumnDistinctValuesToContainSet"
    return [
        Rule("rafd_name", "labels", "critical", "file names that are not RaFD's",
             "name files like Rafd090_01_Caucasian_female_angry_frontal.jpg, or remove them",
             (Check("ExpectColumnValuesToMatchRegex", {"column": "base", "regex": plain}),)),
        Rule("rafd_view_unique", "labels", "critical",
             "several files of one person, camera, expression and gaze",
             "keep one of them", (_unique("view"),)),
        Rule("rafd_person", "identities", "warning", "persons with several groups or genders",
             "correct the file names", (_between("descriptions", None, 1),)),
        Rule("rafd_complete", "labels", "warning", "expressions, cameras or gazes are missing",
             "add the images, or select other values", tuple(
                 Check(contains, {"column": column, "value_set": list(values)})
                 for column, values in (("expression", EXPRESSIONS), ("camera", config.cameras),
                                        ("gaze", config.gazes)))),
    ]  # fmt: skip


def _folders() -> list[Rule]:
    return [
        Rule("folder_layout", "layout", "critical", "the folders are not classes, or parts",
             "arrange them as stated", (_in("fault", [""]),)),
        Rule("class_read", "class folders", "critical", "classes without a picture that is read",
             "save their pictures as JPEG or PNG, or remove the folders", (_in("read", [True]),)),
    ]  # fmt: skip


def _classes(raw: RawDataset) -> list[Rule]:
    """Rules for one class per image, by folder or by a column of words."""
    column = raw.classes
    count = Check("ExpectColumnUniqueValueCountToBeBetween", {"column": column, "min_value": 2})
    blank = Check("ExpectColumnValuesToNotBeInSet", {"column": column, "value_set": [""]})
    known = Rule("class_known", "labels", "critical", "rows without a class",
                 f"fill in {column}, or remove the rows and their images", (blank,))  # fmt: skip
    if raw.kind == "folders":
        known = Rule("class_folder", "labels", "critical", "images outside a class folder",
                     "put each image in a folder named after its class, or give the folder above "
                     "as raw=", (_known(column),))  # fmt: skip
    return [known, Rule("class_count", "labels", "critical", "there are fewer than two classes",
                        class_fix(raw), (count,))]  # fmt: skip
