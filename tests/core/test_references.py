"""References to files and registered versions."""

import pytest

from training.core.references import VersionName, split_digest, split_version, with_digest

DIGEST = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"a/b.pt@{DIGEST}", ("a/b.pt", DIGEST)),
        (f"a/b.pt@{DIGEST.upper()}", ("a/b.pt", DIGEST)),
        (with_digest("runs/a@b", DIGEST), ("runs/a@b", DIGEST)),
        ("a/b.pt", ("a/b.pt", "")),
        ("stargan@champion", ("stargan@champion", "")),
        (f"@{DIGEST}", (f"@{DIGEST}", "")),
        (f"a@{DIGEST[1:]}", (f"a@{DIGEST[1:]}", "")),
    ],
)
def test_a_path_and_its_digest(text: str, found: tuple[str, str]) -> None:
    assert split_digest(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("stargan@champion", VersionName("stargan", "", "champion")),
        ("stargan/12", VersionName("stargan", "12", "")),
        ("stargan", None),
        ("stargan/latest", None),
        ("@champion", None),
        ("stargan@", None),
        ("/3", None),
        ("", None),
    ],
)
def test_a_registered_version(text: str, found: VersionName | None) -> None:
    assert split_version(text) == found
