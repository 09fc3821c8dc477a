"""`.dvc` files that somebody has written or changed."""

import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from training.data.versions import KINDS, Pin, pin

MD5 = "0517a8" * 5 + "01.dir"
OUT = {"md5": MD5, "path": "raw/pets", "nfiles": 3, "size": 900}
BOMB = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(20)
)
ODD = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
    | st.sampled_from(["../x", "/etc", "abc", -5, float("inf"), [1], {"a": 1}, MD5[:-4]])
)  # fmt: skip


def file(out: Any = OUT, **more: Any) -> str:
    return yaml.safe_dump({"outs": [out], **more})


REFUSED = {
    "infinite size": (file({**OUT, "size": float("inf")}), "size=inf: needs a whole number"),
    "a list for the size": (file({**OUT, "size": [1]}), r"size=\[1\]: needs a whole number"),
    "letters for nfiles": (file({**OUT, "nfiles": "abc"}), "nfiles='abc': needs a whole number"),
    "negative nfiles": (file({**OUT, "nfiles": -5}), "nfiles=-5: needs a whole number"),
    "a list for meta": (file(meta=[1]), r"meta=\[1\]: needs kind: celeba"),
    "an unknown kind": (file(meta={"kind": "zip"}), "needs kind: celeba"),
    "another folder": (file({**OUT, "path": "../../etc"}), "not the relative name"),
    "an absolute folder": (file({**OUT, "path": "/etc"}), "not the relative name"),
    "brackets": ("[" * 5_000, "nested too deeply"),
    "an alias": ("x: &x 1\nouts: [*x]", "it has an alias"),
    "an alias bomb": (BOMB, "it has an alias"),
    "a tag": ("outs: !!python/object/apply:os.system [id]", "could not determine a constructor"),
    "a date that is none": ("outs: 2026-99-99", "not a .dvc file"),
    "too long": ("# x\n" * 30_000, "120000 bytes; a .dvc file has less"),
    "control characters": ("outs: \x00", "not a .dvc file"),
    "a list": ("[1]", "not a .dvc file with an md5"),
    "nothing": ("", "not a .dvc file with an md5"),
    "a file's md5": (file({**OUT, "md5": MD5[:-4]}), "is not the md5 of a folder"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_spoiled_dvc_file_is_refused_by_name_at_once(kind: str, tmp_path: Path) -> None:
    text, says = REFUSED[kind]
    (tmp_path / "pets.dvc").write_text(text)
    begun = time.monotonic()
    with pytest.raises(ValueError, match=rf"^pets\.dvc: .*{says}"):
        pin("pets", root=tmp_path)
    assert time.monotonic() - begun < 5


def test_other_bytes_than_utf8_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "pets.dvc").write_bytes(b"outs: \xff\xfe")
    with pytest.raises(ValueError, match=r"^pets\.dvc: not a \.dvc file"):
        pin("pets", root=tmp_path)


def test_a_dvc_file_without_counts_is_read() -> None:
    text = file({"md5": MD5, "path": "data"}, meta={"kind": "csv"})
    assert Pin.parse("pets", text) == Pin("pets", MD5, 0, 0, "data", "csv")


@settings(max_examples=500)
@given(st.sampled_from(sorted(OUT)) | st.text(max_size=4), ODD, ODD | st.just({"kind": "csv"}))
@example("size", float("nan"), None)
def test_any_value_is_refused_by_name_or_right(key: str, value: Any, meta: Any) -> None:
    try:
        found = Pin.parse("pets", file({**OUT, key: value}, meta=meta))
    except ValueError as error:
        assert str(error).startswith("pets.dvc: ")  # noqa: PT017
        return
    assert found.md5.endswith(".dir")
    assert min(found.nfiles, found.size) >= 0
    assert ".." not in Path(found.path).parts
    assert found.kind in ("", *KINDS)


@settings(max_examples=300)
@given(st.text(max_size=60) | st.text("[]{}&*!-:, \nab", max_size=60))
def test_any_text_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=r"^pets\.dvc: "):
        Pin.parse("pets", text)
