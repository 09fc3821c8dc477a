"""data.resize=fast: torch's pixels of Pillow's decode, close to the exact ones, on every thread."""

import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from training.core.config import DataConfig, from_json, to_json
from training.data.crop import FILTERS, crop_image
from training.data.pictures import UnusableError
from training.data.resize import resize, single_threaded
from training.models import configure

SHARED = Path(os.environ.get("SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
GENUINE = SHARED / "celeba" / "img_align_celeba"
FAST = DataConfig(size=64, resize="fast")
Filter = st.sampled_from(["bilinear", "bicubic"])


def smooth(width: int, height: int, seed: int = 0) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (9, 7, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # by a quarter
    return encode(smooth(90, 120), exif=exif)


def by_torch(squares: np.ndarray, size: int, interpolation: str) -> np.ndarray:
    """Another memory order, and all squares in one call."""
    batch = torch.from_numpy(squares).permute(0, 3, 1, 2).contiguous()
    out = F.interpolate(batch, (size, size), mode=interpolation, antialias=True)
    return out.permute(0, 2, 3, 1).numpy()


def difference(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    return np.abs(found.astype(int) - wanted.astype(int))


KINDS = {
    "CelebA's": ("celeba", encode(smooth(178, 218)), 178),
    "RaFD's": ("rafd", encode(smooth(681, 1024)), 256),
    "progressive": ("csv", encode(smooth(90, 61), progressive=True), 61),
    "grey JPEG": ("csv", encode(smooth(90, 61).convert("L")), 61),
    "CMYK": ("csv", encode(smooth(90, 61).convert("CMYK")), 61),
    "PNG": ("csv", encode(smooth(90, 61), "PNG"), 61),
    "palette": ("csv", encode(smooth(90, 61).convert("P"), "PNG"), 61),
    "transparent": ("csv", encode(smooth(90, 61).convert("RGBA"), "PNG"), 61),
    "turned": ("folders", turned(), 90),
    "its own size": ("csv", encode(smooth(64, 64)), 64),
}


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("name", KINDS)
def test_the_pixels_are_torchs_resize_of_pillows_decode(name: str, interpolation: str) -> None:
    kind, data, side = KINDS[name]
    config = replace(FAST, interpolation=interpolation)
    decoded = crop_image(data, kind, DataConfig(size=side))  # the exact resize to the same size
    expected = by_torch(np.array(decoded)[None], 64, interpolation)[0]
    found = crop_image(data, kind, config)
    assert np.array_equal(found, expected)
    assert found.flags.c_contiguous


@settings(max_examples=150)
@given(st.integers(8, 300), st.integers(8, 300), st.integers(1, 5), Filter, st.integers(0, 999))
def test_any_group_and_order_gives_the_same_pixels_within_two_levels_of_pillows(
    side: int, size: int, count: int, interpolation: str, seed: int
) -> None:
    squares = np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)
    together = by_torch(squares, size, interpolation)
    alone = [resize(square, size, interpolation) for square in squares[::-1]][::-1]
    assert np.array_equal(together, alone)
    for square, found in zip(squares, alone, strict=True):
        wanted = Image.fromarray(square).resize((size, size), FILTERS[interpolation])
        assert difference(found, np.asarray(wanted)).max() <= 2


def shares(files: list[Path], interpolation: str) -> tuple[float, int]:
    """Share of CelebA's values at 128 px that differ from the exact ones, and by how much."""
    config = DataConfig(size=128, interpolation=interpolation)  # type: ignore[arg-type]
    off = np.stack(
        [
            difference(
                crop_image(file.read_bytes(), "celeba", replace(config, resize="fast")),
                crop_image(file.read_bytes(), "celeba", config),
            )
            for file in files
        ]
    )
    return float((off > 0).mean()), int(off.max())


@pytest.mark.parametrize(("interpolation", "most"), [("bilinear", 1), ("bicubic", 2)])
def test_drawn_faces_differ_little(interpolation: str, most: int, drawn: Path) -> None:
    files = sorted((drawn / "img_align_celeba").iterdir())[:60]
    share, off = shares(files, interpolation)
    assert 0 < share < 0.004
    assert 0 < off <= most


@pytest.mark.skipif(not GENUINE.is_dir(), reason="no genuine CelebA images next to the project")
@pytest.mark.parametrize(("interpolation", "most"), [("bilinear", 1), ("bicubic", 2)])
def test_genuine_faces_differ_little(interpolation: str, most: int) -> None:
    share, off = shares(sorted(GENUINE.iterdir())[:200], interpolation)
    assert 0 < share < 0.004
    assert 0 < off <= most


@settings(max_examples=200)
@given(st.sampled_from(["JPEG", "PNG"]), st.data())
def test_damaged_bytes_have_the_fate_and_the_reason_of_the_exact_resize(
    kind: str, draw: st.DataObject
) -> None:
    data = bytearray(encode(smooth(50, 60), kind))
    for _ in range(draw.draw(st.integers(1, 4))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    data = data[: draw.draw(st.integers(0, len(data)))]
    found: list[object] = []
    for way in ("exact", "fast"):
        try:
            config = DataConfig(size=16, resize=way)  # type: ignore[arg-type]
            found.append(crop_image(bytes(data), "folders", config).shape)
        except UnusableError as error:
            found.append(str(error))
    assert found[0] == found[1]


def test_lanczos_is_refused_before_a_run_and_by_every_step() -> None:
    text = r"^data\.resize=fast has no data\.interpolation=lanczos; set data\.resize=exact, or "
    wrong = {"data.resize": "fast", "data.interpolation": "lanczos"}
    with pytest.raises(ValueError, match=text):
        configure.resolve("stargan", "demo", wrong)
    with pytest.raises(ValueError, match=text):
        from_json(DataConfig, '{"resize": "fast", "interpolation": "lanczos"}')
    for fixed in ({"data.resize": "exact"}, {"data.interpolation": "bicubic"}):
        configure.resolve("stargan", "demo", {**wrong, **fixed})


def test_only_fast_is_named_in_the_text_that_hashes_use() -> None:
    """Configurations that were written before the setting was there mean the exact resize."""
    assert "resize" not in to_json(DataConfig())
    assert '"resize": "fast"' in to_json(FAST)
    assert from_json(DataConfig, to_json(FAST)) == FAST
    assert from_json(DataConfig, '{"size": 64}').resize == "exact"


# Prints torch's vector instructions, its threads before and after, the threads that it started, the
# digest of the shard.
WORK = """
import io, os, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np, torch
from PIL import Image
from training.core.config import DataConfig
from training.core.files import sha256_file
from training.core.progress import Progress
from training.data.archive import Folder
from training.data.shards import write_shard
folder, config = Path(sys.argv[1]), DataConfig(size=512, resize="fast")
out = folder.with_name("shard.npy")
tree, count = Folder(folder), lambda: len(os.listdir("/proc/self/task"))
threads, started = torch.get_num_threads(), count()
with ThreadPoolExecutor(3) as pool:
    write_shard(out, tree, 40 * tree.names(), "folders", config, pool, Progress("", 1, ""))
    started = count() - started - len(pool._threads)
print(torch.backends.cpu.get_cpu_capability(), threads, torch.get_num_threads(), started,
      sha256_file(out))
"""


def test_torch_starts_no_threads_and_no_instruction_set_changes_the_pixels(tmp_path: Path) -> None:
    """torch uses its own threads for one image unless it is told not to."""
    (tmp_path / "raw").mkdir()
    for seed in range(3):
        (tmp_path / "raw" / f"{seed}.jpg").write_bytes(encode(smooth(600, 650, seed)))
    found = {}
    for capability in ("default", ""):
        settings = {"OMP_NUM_THREADS": "4", "ATEN_CPU_CAPABILITY": capability}
        environment = {k: v for k, v in {**os.environ, **settings}.items() if v}
        command = [sys.executable, "-c", WORK, str(tmp_path / "raw")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        used, before, after, started, digest = done.stdout.splitlines()[-1].split()
        assert (after, started) == (before, "0")
        found[used] = digest
    assert len(set(found.values())) == 1, found


def test_the_number_of_threads_is_restored_after_a_fault() -> None:
    before = torch.get_num_threads()
    with pytest.raises(OSError, match="full"), single_threaded():  # noqa: PT012
        assert torch.get_num_threads() == 1
        raise OSError("full")
    assert torch.get_num_threads() == before
