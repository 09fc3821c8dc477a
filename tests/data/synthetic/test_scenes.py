"""Drawn landscapes: folders by season, reproducible bytes, distinguishable seasons."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.data.__main__ import main
from training.data.synthetic import scenes


def digest(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.png"))
    }


def test_the_same_pictures_are_drawn_again(tmp_path: Path) -> None:
    for name in ("a", "b"):
        main(["scenes", str(tmp_path / name), "--seasons", "summer,winter", "--count", "3"])
    first = digest(tmp_path / "a")
    assert first == digest(tmp_path / "b")
    assert list(first) == [f"{season}/{n:04d}.png" for season in ("summer", "winter")
                           for n in range(3)]  # fmt: skip
    assert len(set(first.values())) == 6
    with Image.open(tmp_path / "a" / "summer" / "0000.png") as picture:
        assert (picture.size, picture.mode) == ((128, 128), "RGB")


def test_seasons_are_distinguishable() -> None:
    """Winter's land is the brightest, summer's or spring's the greenest; autumn's is red."""
    land = {
        season: np.mean(
            [np.asarray(scenes.landscape(season, n))[100:] for n in range(4)], (0, 1, 2)
        )
        for season in scenes.SEASONS
    }
    assert max(land, key=lambda s: land[s].sum()) == "winter"
    assert max(land, key=lambda s: land[s][1] - land[s][[0, 2]].mean()) in ("summer", "spring")
    assert land["autumn"][0] > land["autumn"][1] > land["autumn"][2]


def test_an_unknown_season_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown season monsoon; known: spring, summer"):
        scenes.draw(tmp_path / "out", ("summer", "monsoon"))
    assert not (tmp_path / "out").exists()


def test_a_folder_with_pictures_is_never_replaced(tmp_path: Path) -> None:
    """The tutorial's user has sorted photographs into the folder of that name."""
    photo = tmp_path / "photos" / "summer" / "0001.jpg"
    photo.parent.mkdir(parents=True)
    photo.write_bytes(b"mine")
    with pytest.raises(ValueError, match="photos exists and would be replaced; name a new folder"):
        main(["scenes", str(tmp_path / "photos"), "--count", "1"])
    assert photo.read_bytes() == b"mine"
    (tmp_path / "empty").mkdir()
    main(["scenes", str(tmp_path / "empty"), "--count", "1"])
    assert len(digest(tmp_path / "empty")) == 2
