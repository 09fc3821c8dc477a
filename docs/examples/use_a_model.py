"""Edit one picture with a registered model, measure what changed and save a grid.

    python docs/examples/use_a_model.py face.png grid.png Blond_Hair Male
    python docs/examples/use_a_model.py face.png grid.png Male --model models:/stgan@champion \\
        --has Young --keep Young

Requires mlflow, numpy, pillow, safetensors and torch; the model contains the rest of its code.
The registry is at MLFLOW_TRACKING_URI, by default in the local file runs/mlflow.db.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import mlflow
import numpy as np
from PIL import Image, ImageDraw, ImageOps
from PIL.PngImagePlugin import PngInfo

LOCAL = Path("runs/mlflow.db")
CAPTION = 14  # height of a column's title, px
NOTICEABLE = 16  # grey levels (of 255) at which a pixel counts as changed
# The mark that a model edited the picture; the model's name goes into the tool's.
XMP = """<x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""
 xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">
<Iptc4xmpExt:DigitalSourceType>http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia</Iptc4xmpExt:DigitalSourceType>
<xmp:CreatorTool>{}</xmp:CreatorTool>
</rdf:Description></rdf:RDF></x:xmpmeta>"""


def load(uri: str) -> Any:
    """The model behind `models:/NAME@ALIAS` or `models:/NAME/VERSION`."""
    where = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not where and not LOCAL.is_file():
        raise SystemExit(f"no {LOCAL} here: run this where `make demo` ran, or set "
                         "MLFLOW_TRACKING_URI")  # fmt: skip
    mlflow.set_tracking_uri(where or f"sqlite:///{LOCAL}")
    return mlflow.pyfunc.load_model(uri)


def side(model: Any) -> int:
    """Side of the model's images, px; versions before 0.3 have it in the signature alone."""
    if known := model.metadata.metadata.get("image_size"):
        return int(known)
    return int(model.metadata.signature.inputs.inputs[0].shape[-1])


def read(path: Path, size: int) -> np.ndarray:
    """The central square of a picture: uint8 (size, size, 3)."""
    with Image.open(path) as picture:
        upright = ImageOps.exif_transpose(picture).convert("RGB")
        return np.asarray(ImageOps.fit(upright, (size, size)))


def vector(names: list[str], wanted: list[str]) -> np.ndarray:
    """Label vector, float32 (1, len(names)): 1 for each wanted label and its data set's mask.

    A label is named in full (`celeba/Male`) or by its last part where that is unique.
    """
    out = np.zeros((1, len(names)), np.float32)
    for label in wanted:
        hits = [i for i, name in enumerate(names) if label in (name, name.partition("/")[2])]
        if len(hits) != 1:
            raise SystemExit(f"{label!r}: name one of {', '.join(names)}")
        out[0, hits[0]] = 1
        mask = f"mask/{names[hits[0]].partition('/')[0]}"
        if mask in names:  # a model of several data sets
            out[0, names.index(mask)] = 1
    return out


def edit(model: Any, image: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The picture (s, s, 3) with the labels `target`, uint8; the model works in [-1, 1]."""
    inputs = {"image": image.astype(np.float32).transpose(2, 0, 1)[None] / 127.5 - 1,
              "label": target}  # fmt: skip
    if "source" in model.metadata.signature.inputs.input_names():
        inputs["source"] = source
    out = model.predict(inputs)[0].transpose(1, 2, 0)
    return ((out + 1) * 127.5).round().clip(0, 255).astype(np.uint8)


def compare(before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """Difference of two uint8 pictures: mean, share of changed pixels, PSNR in dB."""
    apart = np.abs(before.astype(float) - after.astype(float))
    error = max((apart**2).mean(), 1e-5)
    return {
        "mean change": apart.mean(),
        "pixels changed, %": 100 * (apart.max(2) >= NOTICEABLE).mean(),
        "PSNR, dB": 10 * np.log10(255**2 / error),
    }


def grid(titles: list[str], pictures: list[np.ndarray]) -> Image.Image:
    """The pictures in one row, each below its title."""
    size = pictures[0].shape[0]
    sheet = Image.new("RGB", (size * len(pictures), size + CAPTION), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (title, picture) in enumerate(zip(titles, pictures, strict=True)):
        draw.text((i * size + 2, 1), title, "black")
        sheet.paste(Image.fromarray(picture), (i * size, CAPTION))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("picture", type=Path)
    parser.add_argument("out", type=Path, help="the grid to write, as .png")
    parser.add_argument("edits", nargs="*", help="labels, an edit each; all of them by default")
    parser.add_argument("--model", default="models:/stargan@champion")
    parser.add_argument("--has", action="append", default=[], help="a label of the input")
    parser.add_argument("--keep", action="append", default=[], help="a label on in every edit")
    args = parser.parse_args()

    model = load(args.model)
    names = model.metadata.metadata["label_names"]
    before = read(args.picture, side(model))
    source = vector(names, args.has)
    edits = args.edits or [name for name in names if not name.startswith("mask/")]
    after = [edit(model, before, source, vector(names, [name, *args.keep])) for name in edits]
    for name, picture in zip(edits, after, strict=True):
        numbers = "  ".join(f"{key} {value:.2f}" for key, value in compare(before, picture).items())
        sys.stdout.write(f"{name}: {numbers}\n")
    mark = PngInfo()
    mark.add_itxt("XML:com.adobe.xmp", XMP.format(escape(args.model)))
    grid(["input", *edits], [before, *after]).save(args.out, "PNG", pnginfo=mark)
    sys.stdout.write(f"synthetic images written to {args.out}\n")


if __name__ == "__main__":
    main()
