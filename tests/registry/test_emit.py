"""Where OpenLineage events go, when one of the places fails."""

from pathlib import Path

import pytest

from training.registry import emit


def test_a_destination_that_fails_stops_no_other_and_is_the_one_that_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emit, "PATIENCE", 60.0)  # the first event imports the library
    (tmp_path / "plain").write_text("")
    bad, good = emit.File(tmp_path / "plain" / "events"), emit.File(tmp_path / "events")
    sender = emit.Sender([bad, good])
    for number in range(2):
        sender.put({"number": number})
    sender.finish()
    assert len((tmp_path / "events").read_text().splitlines()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"OpenLineage: 2 of 2 events were not received by {bad.where} (")
