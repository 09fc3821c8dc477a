"""MLflow's own page in a real browser: it opens on the runs, with settings beside scores."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from browser import PATIENCE, Browser
from servers import MlflowServer
from training.registry.note import describe_version
from training.tracking import client as tracking
from training.tracking import links
from training.tracking.described import describe, parameters

pytestmark = [
    pytest.mark.server,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # MLflow leaves SQLite pools open
]
# The cells of each row of the table, which has several parts side by side.
ROWS = """
Object.values([...document.querySelectorAll(".ag-center-cols-container .ag-row, "
  + ".ag-pinned-left-cols-container .ag-row")].reduce((rows, row) => {
    const cells = rows[row.getAttribute("row-index")] ??= {};
    for (const cell of row.querySelectorAll("[col-id]"))
      cells[cell.getAttribute("col-id")] = cell.textContent.trim();
    return rows;
  }, {}))
"""


@pytest.fixture
def served(
    empty_mlflow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MlflowServer]:
    """A server with two pipeline runs, one of which changed a setting and was judged."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "server").mkdir()
    database = tmp_path / "server" / "server.db"
    shutil.copy(empty_mlflow, database)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    for seed, (changes, score) in enumerate([({}, 0.8125), ({"lambda_rec": "14"}, 0.9375)]):
        monkeypatch.setenv("PIPELINE_RUN_ID", f"run-{seed}")
        tracking.pipeline_run_id.cache_clear()
        run_id = tracking.parent_run()
        describe(run_id, parameters("stargan", "demo", changes, ("celeba", "0517.dir"), seed))
        tracking.log_results(run_id, {"score/success": score, "success_mean": score}, {})
        tracking.end_parent("FINISHED")
    describe_version(run_id, "stargan", "2", "promoted: every <floor> is *reached*")
    running = MlflowServer(tmp_path / "server")
    yield running
    running.kill()


def shown(page: Browser, what: Callable[[], Any]) -> Any:
    """What the page shows, once it does."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.2)
    raise AssertionError(page.run("location.href + document.body.innerText"))


def test_the_experiment_opens_on_runs_with_settings_beside_scores(
    served: MlflowServer, browser: Browser
) -> None:
    """The view is that of training, the best run is first, and its description has links."""
    where = tracking.experiment_id()
    browser.call("Emulation.setDeviceMetricsOverride", width=3000, height=900,
                 deviceScaleFactor=1, mobile=False)  # fmt: skip
    browser.open(served.uri + links.runs(where))
    rows = shown(browser, lambda: [r for r in browser.run(ROWS) if "0.9375" in str(r)]
                 and browser.run(ROWS))  # fmt: skip
    best, other = (list(row.values()) for row in rows)
    assert "Sessions" not in browser.run("document.body.innerText")  # of the other view
    assert any("stargan demo lambda_rec=14 seed=1" in cell for cell in best)
    assert {"0.9375", "14", "promoted"} <= {*best}
    assert any("stargan demo seed=0" in cell for cell in other)
    assert "0.8125" in other
    assert not {"14", "promoted"} & {*other}
    run_id = tracking.parent_run()
    browser.open("about:blank")
    browser.open(served.uri + links.run(where, run_id))
    link = "document.querySelector('a[href*=\"models/stargan/versions/2\"]')?.href"
    assert shown(browser, lambda: browser.run(link)) == served.uri + links.version("stargan", "2")
    assert "promoted: every <floor> is *reached*" in browser.run("document.body.innerText")


def test_the_page_of_two_runs_shows_the_settings_that_differ(
    served: MlflowServer, browser: Browser
) -> None:
    where = tracking.experiment_id()
    runs = [run.info.run_id for run in tracking.client().search_runs([where])]
    browser.open(
        f"{served.uri}/#/compare-runs?runs={json.dumps(runs)}&experiments={json.dumps([where])}"
    )
    text = "document.body.innerText"

    def settings() -> list[str]:
        """The lines of the table of parameters."""
        return (
            str(browser.run(text))
            .partition("\nParameters\n")[2]
            .partition("\nMetrics\n")[0]
            .split("\n")
        )

    shown(browser, lambda: any(line.startswith("preset\tdemo\tdemo") for line in settings()))
    browser.run("document.querySelector('[role=switch]').click()")
    shown(browser, lambda: not any(line.startswith("preset") for line in settings()))
    rows = {tuple(line.split("\t")) for line in settings()} - {("Show diff only",)}
    assert rows == {("lambda_rec", "14", ""), ("seed", "1", "0")}


def test_the_page_of_a_run_shows_its_pictures(
    served: MlflowServer, browser: Browser, tmp_path: Path
) -> None:
    where, run_id = tracking.experiment_id(), tracking.parent_run()
    Image.new("RGB", (64, 64), (200, 0, 0)).save(tmp_path / "grid.png")
    tracking.log_pictures(run_id, {"samples": tmp_path / "grid.png"})
    browser.call("Emulation.setDeviceMetricsOverride", width=1600, height=1400,
                 deviceScaleFactor=1, mobile=False)  # fmt: skip
    browser.open(served.uri + links.run(where, run_id, "/model-metrics"))
    widths = (
        "[...document.querySelectorAll('img[src*=\"images%2Fsamples\"]')].map(i => i.naturalWidth)"
    )
    assert len(shown(browser, lambda: [w for w in browser.run(widths) if w])) == 1
