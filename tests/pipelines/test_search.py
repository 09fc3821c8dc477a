"""`python -m pipelines search`: the space, trials, pruning, and what a stopped search leaves."""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import optuna
import psutil
import pytest
import yaml
from optuna.storages.journal import JournalFileBackend

from pipelines import compiled
from pipelines.search import page, record
from pipelines.search import run as searching
from pipelines.search import space as spaces
from pipelines.search import study as studies
from pipelines.search.jobs import Job, run_all
from pipelines.search.plan import Plan
from pipelines.search.study import Data, Search, opened, winner
from pipelines.search.trial import Result, Stage
from project import SMALL, clean_environment, heed_ctrl_c
from releases import train as first_model
from training.core.config import JudgeConfig, to_json
from training.core.files import read_json, write_json
from training.judge import judge
from training.resolve import check
from training.storage.store import Manifest, open_store

SMOKE = ["preset=smoke"]
# Trials of seconds on the toy data of 16 px.
TOY = ["preset=smoke", "images=64", "train.batch=8", "conv_dim=4", "repeat_num=1", "d_conv_dim=4",
       "d_repeat_num=2", "n_critic=2", "eval.limit=4", "eval.bootstrap=20", "prune=16"]  # fmt: skip


def test_a_space_is_read_as_it_is_written() -> None:
    """With `space=` or without, and as the sampler's distributions."""
    words = ["lambda_cls=0.1..2 log", "g_lr=1e-5..1e-3 log", "upsampling=resize,transposed"]
    pairs = [*words, "batch=4..16 step 4", "n_critic=2..5", "seed=7", "data.attributes=Male,Young"]
    plan = Plan.read([*SMOKE, *pairs])
    assert {k: spaces.shown(d) for k, d in plan.space.items()} == {
        "lambda_cls": "0.1..2 log", "g_lr": "1e-05..0.001 log",
        "upsampling": "resize,transposed", "batch": "4..16 step 4", "n_critic": "2..5",
    }  # fmt: skip
    assert plan.fixed["seed"] == "7"
    assert plan.config.data.attributes == ("Male", "Young")  # a list is a value, not a choice
    assert Plan.read([*SMOKE, f"space={'; '.join(words)}"]).space.keys() == {
        "lambda_cls", "g_lr", "upsampling"
    }  # fmt: skip
    assert plan.space["n_critic"] == optuna.distributions.IntDistribution(2, 5)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "nothing to search.*model.lambda_rec"),
        (["lambda_none=1..2"], "unknown key 'lambda_none'"),
        (["space=g_lr=0..1"], "g_lr=.*needs a finite number, above 0"),
        (["g_lr=0.1..3"], "g_lr='3': needs.*at most 1"),
        (["upsampling=resize,none"], "upsampling='none': needs one of"),
        (["n_critic=1.5..3"], "'1.5' is not a whole number"),
        (["lambda_rec=5..1"], "the lower end must be below"),
        (["lambda_rec=0..1 log"], "log needs a lower end above 0"),
        (["batch=4..16 step 5"], "not a multiple of the step"),
        (["upsampling=1..2"], "only a number has a range"),
        (["train.seed=1..9"], "seeds="),
        (["images=100", "train.images=200", "g_lr=1e-5..1e-3"], "images="),
        (["data.size=32..64"], "changes what is scored"),
        (["judge.lr=1e-4..1e-2"], "changes what is scored"),
        (["g_lr=1e-5..1e-3", "g_lr=1e-4..1e-2"], "given twice"),
        (["g_lr=1e-5..1e-3", "model.g_lr=1e-4"], "given twice"),
        (["g_lr=1e-5..1e-3", "eval.eval_split=test"], "never sees the test split"),
        (["g_lr=1e-5..1e-3", "launcher=trainjob"], "launcher: not a parameter of a search"),
        (["g_lr=1e-5..1e-3", "prune=500,100"], "rising numbers"),
        (["g_lr=1e-5..1e-3", "prune=640"], "below the length of 640"),
        (["g_lr=1e-5..1e-3", "trials=0"], "search.trials"),
        (["space=data.attributes=Male,Young"], "changes what is scored"),
    ],
)
def test_what_a_trial_would_refuse_is_refused_before_any(pairs: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Plan.read([*SMOKE, *pairs])


def test_the_winning_command_has_the_settings_of_its_trial() -> None:
    """Rounded alike, so that the run finds the training of the trial; no `eval_split`."""
    plan = Plan.read([*SMOKE, "images=320", "lambda_rec=1..20 log", "upsampling=resize,transposed"])
    params = {"lambda_rec": 3.487852712623487, "upsampling": "resize"}
    command = plan.command(params)
    assert command.startswith("python -m pipelines run model=stargan preset=smoke ")
    assert command.endswith("lambda_rec=3.488 upsampling=resize")
    config = plan.settings(params)
    assert (config.model.lambda_rec, config.model.upsampling) == (3.488, "resize")
    assert (config.train.images, config.eval.eval_split) == (320, "val")


def test_a_shorter_pipeline_has_what_the_judge_needs(tmp_path: Path) -> None:
    compiled.write_until("judge", tmp_path / "short.yaml")
    left_out = {"train", "evaluate", "register", "promote"}
    assert set(compiled.steps(tmp_path / "short.yaml")) == set(compiled.steps()) - left_out
    spec, platform = yaml.safe_load_all((tmp_path / "short.yaml").read_text())
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert executors.keys() == spec["deploymentSpec"]["executors"].keys()
    assert "exec-train" not in executors


def test_the_start_is_pinned(store: Path, binary: Path) -> None:
    """As a run pins it, so that all trials have it, and a run with their settings their folder."""
    start = first_model(binary)
    tiny = [*SMOKE, "data.size=16", "conv_dim=8", "repeat_num=1", "d_conv_dim=8", "d_repeat_num=2"]
    pairs = [*tiny, f"init=by-name:{start}", "lambda_rec=1..20 log"]
    plan = Plan.read(pairs)
    digest = Manifest.read(start, "model").digest
    assert plan.fixed["init"] == f"by-name:{start}@sha256:{digest}"
    assert plan.fixed["init"] == check(plan.config, init=f"by-name:{start}").init
    assert f" init={plan.fixed['init']} " in plan.command({"lambda_rec": 2.0})
    assert Plan.read([*tiny, f"init={plan.fixed['init']}", "lambda_rec=1..20 log"]).key == plan.key
    start.write_bytes(first_model(binary, seed=1).read_bytes())
    assert Plan.read(pairs).key != plan.key


Open = Callable[..., Search]


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """An open search in a folder, without data: for what is drawn and told."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    monkeypatch.setattr(Data, "identity", property(lambda self: {"dataset": "d", "judge": "j"}))

    read = cache(lambda *pairs: Plan.read([*SMOKE, *pairs]))

    def make(name: str, *pairs: str) -> Search:
        plan = read(*pairs)
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        data = Data(tmp_path, tmp_path, "code")
        return Search(plan, folder, studies._study(plan, folder, data), data)

    return make


def result(score: float, floors: str = "") -> Result:
    return Result(1, score, True, floors, {"success_mean": score})


def goes_on(search: Search, images: int, score: float) -> bool:
    """Draw a trial and judge it once."""
    (trial,) = search.batch()
    trial.set_user_attr("mlflow_run", "")
    going = search._judged(trial, [result(score)], images)
    if going:
        search._judged(trial, [result(score)], 0)
    return going


def test_a_reopened_search_draws_the_trials_of_the_uninterrupted_one(empty: Open) -> None:
    """Beyond the ten that the sampler draws at random; the first is the preset."""
    pairs = ["lambda_rec=1..20 log", "n_critic=1..5", "trials=11", "prune=none"]

    def told(search: Search) -> None:
        (trial,) = search.batch()
        trial.set_user_attr("mlflow_run", "")
        search._judged(trial, [result(1 / trial.params["lambda_rec"])], 0)

    whole = empty("whole", *pairs)
    for _ in range(11):
        told(whole)
    for _ in range(11):
        told(empty("parts", *pairs))
    parts = empty("parts", *pairs)
    first, *_ = whole.study.trials
    assert first.params == {"lambda_rec": 15.0, "n_critic": 1}
    assert [t.params for t in parts.study.trials] == [t.params for t in whole.study.trials]
    assert empty("other", *pairs, "sampler_seed=1").plan.key != whole.plan.key


def test_a_trial_that_a_kill_left_is_done_again_under_its_number(empty: Open) -> None:
    pairs = ["lambda_rec=1..20 log", "jobs=2", "prune=none"]
    search = empty("a", *pairs)
    before = [t.params for t in search.batch()]
    with (search.folder / "study.jsonl").open("a") as journal:
        journal.write('{"op_code": 5, "wor')
    (search.folder / "study.jsonl.lock").symlink_to("nowhere")
    again = empty("a", *pairs).batch()
    assert [(t.number, t.params) for t in again] == [(0, before[0]), (1, before[1])]


@pytest.mark.parametrize("length", [0, 1, 40])
def test_a_kill_in_the_first_line_of_the_journal_leaves_an_empty_one(
    empty: Open, tmp_path: Path, length: int
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "study.jsonl").write_text(
        '{"op_code":0,"worker_id":"1-2","study_name":'[:length]
    )
    assert len(empty("a", "lambda_rec=1..20 log").batch()) == 1


class Killed(BaseException):
    """The process ends here."""


def scored(jobs: Sequence[Job], most: int) -> list[Result | str]:
    """In place of processes: a result that the settings give; the best have small batches."""
    found: list[Result | str] = []
    for job in jobs:
        model, train = (json.loads(s) for s in (job.stage.model_config, job.stage.train_config))
        score = 1 / (model["lambda_rec"] + train["batch"]) * (0.9 if job.stage.until else 1.0)
        found.append("unlucky" if model["n_critic"] == 5 else result(score))
    return found


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_search_killed_between_any_writes_ends_as_the_uninterrupted_one(
    empty: Open, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    """The same trials, scores and prunings, also of those that are drawn or judged together."""
    pairs = ["lambda_rec=1..20 log", "train.batch=4..16 step 4", "n_critic=1..5", "trials=16",
             "prune=100,200", f"jobs={jobs}"]  # fmt: skip
    monkeypatch.setattr(studies, "run_all", scored)
    monkeypatch.setattr(compiled, "parameters", cache(compiled.parameters))  # it takes 0.1 s
    write, random = JournalFileBackend.append_logs, Random(7)
    left = sys.maxsize

    def counted(backend: JournalFileBackend, logs: list[dict[str, Any]]) -> None:
        nonlocal left
        if not left:
            raise Killed
        left -= 1
        write(backend, logs)

    def ended(name: str) -> bool:
        with suppress(Killed):
            search = empty(name, *pairs)
            while len(search.finished) < search.plan.own.trials:
                search.run(search.batch())
            return True
        return False

    def trials(name: str) -> list[Any]:
        found = empty(name, *pairs).study.trials
        return [(t.state.name, t.params, t.values, t.intermediate_values) for t in found]

    monkeypatch.setattr(JournalFileBackend, "append_logs", counted)
    assert ended("calm")
    lives = 0
    while True:
        left, lives = random.randint(2, 50), lives + 1
        if ended("rough"):
            break
    left = sys.maxsize
    assert lives > 5
    calm = trials("calm")
    assert {state for state, *_ in calm} == {"COMPLETE", "PRUNED", "FAIL"}
    assert trials("rough") == calm


def test_trials_of_other_code_are_named(empty: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the page and in the output; a run of theirs is not said to find its training."""
    monkeypatch.setattr(studies, "run_all", scored)
    search = empty("a", "lambda_rec=1..20 log", "prune=none", "sampler_seed=2")
    search.run(search.batch())
    assert search.outdated == []
    assert "takes its training from this search" in page.render(search)
    search.data = search.data._replace(code="new")
    assert "trains again, as the code changed" in page.render(search)
    search.run(search.batch())
    assert search.outdated == [0]
    text = page.render(search)
    assert "Other code than now ran trials 0:" in text
    assert "takes its training from this search" in text  # the better one is new
    assert "code      other for trials 0: their scores may not be comparable" in page.summary(
        search
    )


def test_a_trial_below_the_median_is_pruned(empty: Open) -> None:
    """Of five complete ones; it counts as finished, and the best complete one wins."""
    search = empty("a", "lambda_rec=1..20 log", "prune=100", "trials=9")
    for score in (0.2, 0.4, 0.6, 0.8, 0.5):
        assert goes_on(search, 100, score)
    assert not goes_on(search, 100, 0.3)
    assert goes_on(search, 100, 0.7)
    assert [t.state.name for t in search.study.trials][5:] == ["PRUNED", "COMPLETE"]
    assert len(search.finished) == 7
    best = winner(search.study)
    assert best
    assert best.number == 3


def test_a_trial_that_passed_is_not_judged_again_after_a_kill(empty: Open) -> None:
    """One that was drawn with it completed since, so that the median is above it."""
    pairs = ["lambda_rec=1..20 log", "prune=100", "trials=9"]
    search = empty("a", *pairs)
    for score in (0.2, 0.4, 0.6, 0.8, 0.5):
        assert goes_on(search, 100, score)
    search = empty("a", *pairs, "jobs=2")
    first, second = search.batch()
    for trial, score in ((first, 0.55), (second, 0.5)):
        trial.set_user_attr("mlflow_run", "")
        assert search._judged(trial, [result(score)], 100)
    search._judged(first, [result(0.55)], 0)
    again = empty("a", *pairs, "jobs=2")
    left = again.batch()[0]
    assert left.number == second.number
    assert again._judged(left, [result(0.5)], 100)


def test_a_trial_below_a_floor_wins_only_if_all_are(empty: Open) -> None:
    search = empty("a", "lambda_rec=1..20 log", "prune=none")
    for score, floors in ((0.9, "stripes"), (0.5, ""), (0.7, "")):
        (trial,) = search.batch()
        trial.set_user_attr("mlflow_run", "")
        search._judged(trial, [result(score, floors)], 0)
        best = winner(search.study)
        assert best
        assert best.number == {0.9: 0, 0.5: 1, 0.7: 2}[score]


def test_other_data_are_not_compared_with_earlier_trials(
    empty: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty("a", "lambda_rec=1..20 log")
    monkeypatch.setattr(Data, "identity", property(lambda self: {"dataset": "x", "judge": "j"}))
    with pytest.raises(ValueError, match="the dataset changed since this search began"):
        empty("a", "lambda_rec=1..20 log")


@pytest.fixture
def toy(binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Searches on the toy data with a real judge: everything but the data's steps is real."""
    path = tmp_path / "judge.json"
    judge(binary, judge_config=to_json(JudgeConfig(images=(96,), batch=16, floor=0.0)), out=path)
    monkeypatch.setattr(studies, "prepare", lambda *_: Data(binary, path, "code"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))

    def run(*pairs: str) -> str:
        out, lines = searching.search([*TOY, *pairs], tmp_path / "runs")
        return "\n".join([*lines, str(out)])

    return run


@pytest.mark.slow
def test_a_search_trains_scores_and_goes_on(
    toy: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Two trials at the same time; then one that fails, which is counted and shown."""
    pairs = ["g_lr=1e-4..1e-2 log"]
    lines = toy(*pairs, "trials=2", "jobs=2")
    output = capsys.readouterr().out
    assert re.findall(r"search: trial (\d) \(\d of 2\)", output) == ["0", "1"]
    assert "2 complete, 0 pruned, 0 failed" in lines
    assert "run it    python -m pipelines run model=stargan preset=smoke" in lines
    (folder,) = (tmp_path / "runs" / "search").iterdir()
    stage = folder / "trial-0000" / "seed-0"
    snapshot, end = read_json(stage / "16.result.json"), read_json(stage / "end.result.json")
    assert snapshot["images"] >= 16
    assert end["images"] >= 64 > snapshot["images"]
    assert end["score"] == end["numbers"]["success_mean"]
    evaluation = read_json(stage / "evaluation.json")
    assert evaluation["meta"]["split"] == "val"
    assert len(list((tmp_path / "runs" / "train").iterdir())) == 2  # of the ordinary run's folders
    monkeypatch.setattr(searching, "FAILURES", 1)
    shard = Manifest.read(tmp_path / "binary.json").entry("celeba-00000.npy")
    open_store().path(shard.sha256).unlink()
    with pytest.raises(searching.SearchError, match=r"failed one after another.*is missing"):
        toy(*pairs, "trials=3")
    text = (folder / "search.html").read_text()
    assert "1 of 3 trials failed" in text
    assert "celeba-00000.npy" in text
    assert not re.search(r"<script|https?://", text)
    assert text.count("<td>complete</td>") == 2


PROGRAM = """
import sys; from pathlib import Path
from pipelines.search import run, study
study.prepare = lambda *_: study.Data(Path(sys.argv[1]), Path(sys.argv[2]), "code")
run.search(sys.argv[3:], Path("runs"))
"""


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_search_killed_at_random_moments_ends_as_the_uninterrupted_one(
    binary: Path, store: Path, tmp_path: Path
) -> None:
    """With real trainings, two at a time, by SIGKILL: the same trials, scores and weights."""
    path, random = tmp_path / "judge.json", Random(3)
    judge(binary, judge_config=to_json(JudgeConfig(images=(96,), batch=16, floor=0.0)), out=path)
    # precision=auto measures, so that it may choose otherwise after a kill before a checkpoint.
    command = [sys.executable, "-c", PROGRAM, str(binary), str(path), *TOY, "precision=fp32",
               "trials=4", "jobs=2", "g_lr=1e-4..1e-2 log"]  # fmt: skip

    def start(folder: Path) -> "subprocess.Popen[bytes]":
        environment = {
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "MLFLOW_TRACKING_URI": "off",
            "STORE_URI": f"file://{folder / 'store'}",
        }
        return subprocess.Popen(command, cwd=folder, env=clean_environment(environment))

    def killed(folder: Path) -> bool:
        """Whether it was, after it had written a random number of files."""
        wanted = random.randint(1, 40) + len([*folder.rglob("*")])
        with start(folder) as process:
            while len([*folder.rglob("*")]) < wanted and process.poll() is None:
                time.sleep(0.02)
            process.kill()
        return process.returncode == -signal.SIGKILL

    def ended(folder: Path) -> list[Any]:
        assert start(folder).wait() == 0
        (search,) = (folder / "runs" / "search").iterdir()
        study = optuna.load_study(
            study_name=search.name, storage=studies._storage(search / "study.jsonl")
        )
        models = [Manifest.read(f) for f in sorted(search.glob("trial-*/seed-0/model-end.json"))]
        weights = [
            {e.name: e.sha256 for e in one.entries if e.name.startswith(("nets", "ema", "optim"))}
            for one in models
        ]
        return [
            (t.state.name, t.params, t.values, t.intermediate_values, files)
            for t, files in zip(study.trials, weights, strict=True)
        ]

    calm, rough = tmp_path / "calm", tmp_path / "rough"
    for folder in (calm, rough):
        shutil.copytree(store, folder / "store")
    assert [killed(rough) for _ in range(5)] == [True] * 5
    trials = ended(rough)
    assert [state for state, *_ in trials] == ["COMPLETE"] * 4
    assert trials == ended(calm)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_stopped_search_goes_on_and_its_winner_runs_from_its_training(
    tmp_path: Path, drawn: Path, run_pipeline: Callable[..., str]
) -> None:
    """On drawn faces by the pipeline's own steps, with MLflow's parent and children."""
    (tmp_path / "raw").mkdir()
    shutil.copytree(drawn, tmp_path / "raw" / "celeba")
    lengths = ("train.", "decay_", "warmup_", "log_", "sample_", "checkpoint_")
    pairs = [p for p in SMALL if not p.startswith(lengths)]
    command = [sys.executable, "-m", "pipelines", "search", *pairs, "images=160", "trials=2",
               "prune=80", "lambda_rec=1..20 log"]  # fmt: skip
    environment = {**clean_environment(None), "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, preexec_fn=heed_ctrl_c,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:  # fmt: skip
        while not list(tmp_path.glob("runs/search/*/trial-0001/seed-0/80.result.json")):
            assert process.poll() is None
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        output = process.communicate()[0]
    assert process.returncode == 130, output
    assert "run the same command to resume" in output
    done = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"search: trial (\d)", done.stdout) == ["1"]
    found = re.search(r"^run it +python -m pipelines run (.*)$", done.stdout, re.MULTILINE)
    assert found
    trainings = sorted((tmp_path / "runs" / "train").iterdir())
    output = run_pipeline(tmp_path, *found[1].split())
    assert "resuming from" in output
    assert sorted((tmp_path / "runs" / "train").iterdir()) == trainings
    with closing(sqlite3.connect(tmp_path / "runs" / "mlflow.db")) as database:
        trials = database.execute(
            "SELECT t.value, p.value FROM tags t JOIN tags p USING (run_uuid)"
            " WHERE t.key = 'trial' AND p.key = 'mlflow.parentRunId'"
        ).fetchall()
    assert [state for state, _ in trials] == ["complete", "complete"]
    assert len({parent for _, parent in trials}) == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # SQLAlchemy's, by MLflow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_trials_are_children_of_their_search_in_mlflow(
    empty_mlflow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_mlflow, tmp_path / "mlflow.db")
    parent = record.begin(Plan.read([*SMOKE, "lambda_rec=1..20 log"]))
    trial = record.begin_trial(parent, "trial 0", {"lambda_rec": "3.2"})
    record.end_trial(trial, "complete", [result(0.7, "stripes")], 0.7)
    (tmp_path / "search.html").write_text("page")
    record.end(parent, {"search/score": 0.7}, {"best": "0"}, tmp_path / "search.html")
    found = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").get_run(trial)
    assert found.data.tags["mlflow.parentRunId"] == parent
    assert (found.data.tags["trial"], found.data.tags["floors"]) == ("complete", "stripes")
    assert found.data.params["search.lambda_rec"] == "3.2"
    assert found.data.metrics["search/score"] == 0.7
    assert found.info.status == "FINISHED"


def test_a_stage_ends_if_the_process_that_started_it_was_killed_at_once(tmp_path: Path) -> None:
    """Before the stage's own imports; else it would train on, beside the next search's."""
    os.mkfifo(tmp_path / "dataset.json")  # reading it waits for ever, as a training that goes on
    stage = Stage("dataset.json", "j", "stargan", "smoke", "{}", "{}", "{}", "", "code",
                  str(tmp_path), 16)  # fmt: skip
    parent = (
        "import os, signal, sys; from pathlib import Path\n"
        "from pipelines.search.jobs import Job, _start; from pipelines.search.trial import Stage\n"
        f"process = _start(Job({stage!r}, Path('log')), 1)\n"
        "print(process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = {**clean_environment(None), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", parent], cwd=tmp_path, env=environment, text=True,
                          stdout=subprocess.PIPE)  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    try:
        orphan = psutil.Process(int(done.stdout))
    except psutil.NoSuchProcess:
        return
    try:
        orphan.wait(timeout=20)
    finally:
        with suppress(psutil.NoSuchProcess):
            orphan.kill()


def test_equal_trials_train_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share a run folder; another one does not wait for them."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    stages = [
        Stage("none.json", "j", model, "smoke", "{}", "{}", "{}", "", "code",
              str(tmp_path / f"{number}"), 16, child=number == 1)
        for number, model in enumerate(["stargan", "stargan", "attgan"])
    ]  # fmt: skip
    logs = [tmp_path / f"{number}.log" for number in range(3)]
    for stage in stages:
        Path(stage.folder).mkdir()
    found = run_all([Job(*both) for both in zip(stages, logs, strict=True)], 3)
    assert [type(one) for one in found] == [str, str, str]
    began = [stage.path.stat().st_mtime_ns for stage in stages]
    ended = [log.stat().st_mtime_ns for log in logs]
    assert began[1] > ended[0]
    assert began[2] < ended[0]


@pytest.mark.parametrize(
    ("visible", "count", "used"),
    [("", 2, ["0", "1", "0"]), ("4,7", 2, ["4", "7", "4"]), ("", 0, ["", "", ""])],
)
def test_trials_at_the_same_time_are_spread_over_the_gpus(
    visible: str, count: int, used: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All, or those that the user chose. In place of Python: a program that prints its own."""
    program = tmp_path / "python"
    program.write_text('#!/bin/sh\necho "$CUDA_VISIBLE_DEVICES"\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    jobs = []
    for model in ("stargan", "attgan", "stgan"):
        folder = tmp_path / model
        folder.mkdir()
        stage = Stage("none.json", "j", model, "smoke", "{}", "{}", "{}", "", "code",
                      str(folder), 16)  # fmt: skip
        jobs.append(Job(stage, folder / "log"))
    run_all(jobs, 3)
    assert [job.log.read_text().strip() for job in jobs] == used


def test_a_stage_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """Also if that is killed, so that the next search finds the training's folder free."""
    program = "import os, time; from pipelines.search.trial import end_with; end_with({}); "
    child = "[sys.executable, '-c', {!r}.format(os.getpid())]".format(
        f"{program}open('started', 'w').close(); time.sleep(60)"
    )
    parent = f"import os, subprocess, sys; subprocess.Popen({child}).wait()"
    environment = {**clean_environment(None), "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([sys.executable, "-c", parent], cwd=tmp_path, env=environment) as process:
        while not (tmp_path / "started").exists():
            time.sleep(0.05)
        (stage,) = psutil.Process(process.pid).children()
        process.kill()
    stage.wait(timeout=20)


def test_a_stage_of_other_settings_is_not_taken(tmp_path: Path) -> None:
    """Or of other code: its result would be another model's."""
    stage = Stage("d", "j", "stargan", "smoke", "{}", "{}", "{}", "", "code", str(tmp_path), 16)
    stage.write()
    write_json(stage.result, {"images": 16, "score": 0.5, "known": True, "floors": "",
                              "numbers": {}})  # fmt: skip
    assert stage.done() == Result(16, 0.5, True, "", {})
    other = Stage("d", "j", "stargan", "smoke", "{}", "{}", "{}", "", "new", str(tmp_path), 16)
    assert other.done() is None
    other.write()
    assert not stage.result.exists()


def test_a_second_process_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan.read([*SMOKE, "lambda_rec=1..20 log"])
    monkeypatch.setattr(studies, "prepare", lambda *_: Data(tmp_path, tmp_path, "code"))
    monkeypatch.setattr(Data, "identity", property(lambda self: {}))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    with (
        opened(plan, tmp_path),
        pytest.raises(ValueError, match="another process runs this search"),
        opened(plan, tmp_path),
    ):
        pass
