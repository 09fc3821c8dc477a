"""Commands that read a version twice, by an alias that moves between."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from training import release
from training.registry import bom, lineage, past, statement, versions

KEY = Path("key.pem")


@pytest.mark.parametrize(
    "command",
    [
        lambda alias: release.sign(alias, key=KEY),
        lambda alias: statement.provenance(alias, Path("out"), None),
        lambda alias: bom.write(alias, Path("out")),
        lambda alias: past.send(alias, "events"),
    ],
    ids=["sign", "provenance", "bom", "lineage"],
)
def test_the_version_that_is_verified_is_the_one_that_was_found(
    command: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else version 3 would get the signature, or the record, of version 4's files."""

    def verified(reference: str, **_: Any) -> Any:
        raise LookupError(reference)

    monkeypatch.setattr(versions, "version", lambda _: SimpleNamespace(name="m", version="3"))
    monkeypatch.setattr(lineage, "verified", verified)
    with pytest.raises(LookupError, match=r"^m/3$"):
        command("m@champion")
