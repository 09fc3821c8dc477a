"""The dry run and the first step refuse what a later step would refuse, before anything costs."""

import hashlib
import json
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines import compare, compiled
from pipelines.__main__ import describe
from pipelines.arguments import parse
from runs import QUICK, go
from training.core.config import DataConfig
from training.data.preview import expected
from training.engine import preflight
from training.engine.throughput import synthetic_labels
from training.models import MODELS, configure
from training.registry.names import check_model_name
from training.resolve import resolve

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # MLflow leaves SQLite pools open
]
KNOWN = compiled.parameters()
ONES = "1" * 64


def dry_run(*pairs: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(describe(parse(list(pairs), KNOWN), KNOWN))
    return found


def draw(folder: Path, classes: dict[str, int], prefix: str = "") -> Path:
    """Noise pictures of 32 px, `count` in each class folder."""
    random = np.random.default_rng(3)
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = random.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{prefix}{i:03d}.png")
    return folder


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("STORE_URI", "MLFLOW_TRACKING_URI", "PIPELINE_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("pairs", "text"),
    [
        (["data.size=100"], r"size=100: a multiple of 16 is needed .*; data.size=96 works"),
        (["crop=shift"], r"windows of data.size=64 px .*; set data.load=72"),
        (["crop=shift", "data.load=64"], r"data.load=64 is not above data.size=64"),
        (["data.size=8", "d_repeat_num=2"], r"the judge: .*; data.size=16 works"),
        (["data.size=8", "d_repeat_num=2", "judge.batch=1"], "the judge: .*; data.size=48 works"),
        (["judge.batch=1", "data.size=32"], r"judge.batch=1: the judge needs 2 or more"),
        (["model=icgan", "batch=1"], r"train.batch=1: icgan needs 2 or more"),
        (
            ["model=starganv2", "data.domains="],
            "celeba: binary: StarGANv2 takes one data set of class",
        ),
        (["model=cyclegan", "preset=smoke", "hub=Nobody"], "hub='Nobody': one of the classes"),
        (["d_branches=true"], "d_branches: one data set of classes is needed"),
        (["data.resize=fast", "data.interpolation=lanczos"], "fast has no data.interpolation=lanc"),
        (["seed=9223372036854775808"], "train.seed='9223372036854775808': needs a whole number"),
        (["seed=9223372036854775807", "seeds=2"], "from train.seed=9223372036854775807 on"),
        (["seeds=0"], "seeds='0': needs a whole number, at least 1|seeds=0: needs"),
        (["nproc=64", "batch=8"], "64 processes for train.batch=8"),
        (["nproc=2", "compile=true"], "compile=true: one process only, not nproc=2"),
        (["eval.inception=none.pt"], "eval.inception=none.pt: PATH@SHA256 is needed"),
        ([f"eval.lpips=none.pt@{ONES}"], "no file none.pt on this machine"),
        (["name=faces.v2"], r"name=faces.v2: \. cannot be"),
        (["name=50%"], "name=50%: % cannot be"),
        (["name=it's mine"], "name=it's mine: ' cannot be"),
        (["init=nosuch.json"], "nosuch.json: no such file"),
        (["compare=nosuch/7"], "nosuch/7: no such version in sqlite"),
        (["init=nosuch@champion"], "nosuch@champion: no such version in sqlite"),
        (["datasets=pets:folders", "raw=nowhere"], "raw=nowhere: no folder nowhere"),
    ],
)
def test_the_dry_run_refuses(work: Path, pairs: list[str], text: str) -> None:
    given = pairs if any(pair.startswith("preset=") for pair in pairs) else ["preset=smoke", *pairs]
    with pytest.raises(ValueError, match=text) as caught:
        dry_run(*given)
    assert "\n" not in str(caught.value)


def test_the_first_step_refuses_the_same(work: Path) -> None:
    with pytest.raises(ValueError, match=r"size=100: a multiple of 16 is needed"):
        resolve(preset="smoke", overrides="data.size=100", out=work / "out.json")
    assert not (work / "out.json").exists()


def test_a_folder_is_no_address_of_mlflow(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the proposed address works."""
    for address in (str(work / "ml runs"), (work / "ml runs").as_uri(), "runs/mlruns"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with pytest.raises(ValueError, match="a folder; MLflow no longer registers") as caught:
            dry_run("preset=smoke")
    good = str(caught.value).partition("SQLite file, ")[2].partition(", a server")[0]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", good)
    with pytest.raises(ValueError, match="nosuch/1: no such version in sqlite"):
        dry_run("preset=smoke", "compare=nosuch/1")


def test_a_file_of_another_checksum_is_named(work: Path) -> None:
    (work / "net.pt").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"net\.pt: sha256 2d71.*, not 1111"):
        dry_run("preset=smoke", f"eval.inception=net.pt@{ONES}")
    good = hashlib.sha256(b"x").hexdigest()
    dry_run("preset=smoke", f"eval.inception=net.pt@{good}")


def test_the_dry_run_tells_the_splits_and_classes_of_own_data(work: Path) -> None:
    raw = draw(work / "raw", {"angry": 40, "happy": 40})
    found = dry_run("preset=smoke", "datasets=mine:folders", f"raw={raw}")
    notes = found["notes"]
    assert isinstance(notes, list)
    assert notes[0] == "mine: 68 train, 4 val, 8 test images; labels angry, happy"


def test_a_class_without_a_training_picture_is_refused(work: Path) -> None:
    """As the step that unifies the labels would, after the pictures were cropped."""
    raw = draw(work / "raw", {"a": 60})
    draw(raw, {"b": 1}, "26-")  # the hash of this name puts it in the test split
    with pytest.raises(ValueError, match=r"mine: no training image .* has b"):
        dry_run("preset=smoke", "datasets=mine:folders", f"raw={raw}")


def test_too_few_pictures_are_refused(work: Path) -> None:
    raw = draw(work / "raw", {"a": 1, "b": 1})
    with pytest.raises(ValueError, match="mine: "):
        dry_run("preset=smoke", "datasets=mine:folders", f"raw={raw}")


def test_a_faulty_table_is_refused_by_the_dry_run_and_left_to_the_validations_report(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = draw(work / "raw", {"p": 30})
    rows = [f"p/{i:03d}.png,{2 if i == 4 else i % 2}" for i in range(30)]
    (raw / "labels.csv").write_text("\n".join(["file,Hat", *rows]) + "\n")
    pairs = ["datasets=mine:csv", f"raw={raw}", "data.attributes=Hat"]
    with pytest.raises(ValueError, match="Hat"):
        dry_run("preset=smoke", *pairs)
    resolve(preset="smoke", datasets="mine:csv", raw=str(raw), overrides="data.attributes=Hat",
            out=work / "out.json")  # fmt: skip
    assert "resolve: mine: not usable as it is; the validation reports it: " in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    "change",
    [{}, {"domains": ("Male",)}, {"domains": ("Male", "Young")}, {"attributes": ("AU01", "AU12")},
     {"attributes": ("Bald", "Bangs", "Male")}, {"attributes": ("Hat",)}],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["celeba", "csv", "rafd", "folders"])
def test_the_expected_labels_are_those_of_the_unified_data(
    kind: str, change: dict[str, tuple[str, ...]]
) -> None:
    config = DataConfig(datasets=(f"x:{kind}",), **change)  # type: ignore[arg-type]
    ((unified, _),) = synthetic_labels(config)
    assert expected("x", kind, config, ("one", "two")) == unified


@pytest.mark.parametrize("key", configure.PRESETS, ids="/".join)
def test_every_preset_passes(key: tuple[str, str]) -> None:
    """None is refused by mistake, whatever data it names."""
    from training.data.labels import LabelSpace

    config = configure.resolve(*key)
    sets = tuple(labels for labels, _ in synthetic_labels(config.data))
    preflight.check(config, LabelSpace(sets))


def test_a_refusal_that_names_a_class_called_metal_is_one() -> None:
    """torch's errors about meta tensors, which prove nothing, are others."""
    from training.data.labels import LabelSet, LabelSpace

    config = configure.resolve("cyclegan", "demo", {"model.hub": "Stone"})
    space = LabelSpace((LabelSet("mine", "onehot", ("Metal", "Wood", "Glass")),))
    with pytest.raises(ValueError, match=r"hub='Stone': .*Metal, Wood, Glass"):
        preflight.check(config, space)


def test_names_that_mlflow_takes_are_accepted_and_others_refused(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compared with a real registry."""
    from training.tracking import client

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{work / 'ml.db'}")
    api, errors = client.client(), client.mlflow().exceptions

    def use(name: str) -> None:
        api.create_logged_model("0", name=name)
        api.create_registered_model(name)
        assert api.search_registered_models(f"name = '{name}'")[0].name == name

    for name in ("mine", "my model", "größe-2", "a_b", "怒り", "x" * 250):
        check_model_name(name)
        use(name)
    for name in ("a/b", "a:b", "a.b", "50%", 'a"b', "it's"):
        with pytest.raises(ValueError, match="name="):
            check_model_name(name)
        with pytest.raises(errors.MlflowException):
            use(name)
    for name in ("", " ", "a\nb", "x" * 251):
        with pytest.raises(ValueError, match="name="):
            check_model_name(name)


@settings(deadline=None, max_examples=8)
@given(size=st.integers(8, 300), batch=st.integers(1, 4), name=st.sampled_from(sorted(MODELS)))
def test_a_refusal_by_shape_is_right(size: int, batch: int, name: str) -> None:
    """The networks that pass can be built; the proposed size passes."""
    from training.data.labels import LabelSet, LabelSpace

    config = configure.resolve(name, "smoke")
    config = replace(config, model=MODELS[name].tiny(), data=replace(config.data, size=size),
                     train=replace(config.train, batch=batch))  # fmt: skip
    kind = MODELS[name].label_kinds[0]
    space = LabelSpace((LabelSet("s", kind, ("a", "b")),))
    try:
        preflight.check(config, space)
    except ValueError as error:
        text = str(error)
        assert "\n" not in text
        if "; data.size=" in text:
            works = int(text.rpartition("data.size=")[2].split()[0])
            preflight.check(replace(config, data=replace(config.data, size=works)), space)
        return
    with torch.device("meta"):
        config.model.networks(space, size)


def test_a_start_from_other_labels_is_refused_before_the_run(
    store: Path, binary: Path, tmp_path: Path
) -> None:
    first = go(binary, tmp_path / "a", QUICK)
    text = rf"init={first}: its labels are \[Black_Hair, Blond_Hair, Male\] \(binary\), those of"
    with pytest.raises(ValueError, match=text):
        dry_run("preset=smoke", f"init={first}")
    tiny = ["data.size=16", *(f"{k}={v}" for k, v in asdict(MODELS["stargan"].tiny()).items())]
    dry_run("preset=smoke", f"init=by-name:{first}", *tiny)
    with pytest.raises(ValueError, match=r"its network G has other .*\(conv_dim: 4 -> 16; repeat"):
        dry_run("preset=smoke", f"init=by-name:{first}")
    with pytest.raises(ValueError, match="a model of stargan cannot start a training of attgan"):
        dry_run("preset=smoke", "model=attgan", f"init={first}")


def test_labels_that_could_not_be_read_are_not_compared(
    store: Path, classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first step leaves faulty data to the validation, also where `init` has labels."""
    first = go(classes, tmp_path / "a", QUICK)
    raw = draw(tmp_path / "raw", {"angry": 4, "happy": 4})
    (raw / "loose.jpg").write_bytes((raw / "angry").iterdir().__next__().read_bytes())
    resolve(
        datasets="mine:folders", raw=str(raw), preset="smoke", init=str(first),
        out=tmp_path / "out.json",
    )  # fmt: skip
    assert "mine: not usable as it is; the validation reports it: " in capsys.readouterr().out


def test_compare_refuses_before_the_first_system_trains(work: Path) -> None:
    """And names the system; without a fault, its dry run lists every run."""
    with pytest.raises(ValueError, match=r"stgan:data.size=50: .*size=50"):
        compare.describe(["models=stargan,stgan:data.size=50", "preset=smoke", "images=64"])
    with pytest.raises(ValueError, match="nosuch/1: no such version"):
        compare.describe(["models=stargan", "preset=smoke", "images=64", "compare=nosuch/1"])
    lines = compare.describe(["models=stargan:lambda_rec=0.5,stgan", "preset=smoke", "seeds=2"])
    assert [line.partition(": {")[0] for line in lines] == [
        "stargan:lambda_rec=0.5, seed 0", "stargan:lambda_rec=0.5, seed 1",
        "stgan, seed 0", "stgan, seed 1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "pairs",
    [
        ["models=stargan", "seed=7"],
        ["models=stargan", "train.seed=7"],
        ["models=stargan", "overrides=seed=7"],
        ["models=stargan:seed=7"],
    ],
)
def test_compare_refuses_a_seed_that_its_own_would_replace(work: Path, pairs: list[str]) -> None:
    with pytest.raises(ValueError, match=r"stargan.*: train.seed: .*; leave it out, .* seeds=N"):
        compare.describe(["preset=smoke", *pairs])


def test_compare_checks_and_times_a_system_with_its_overrides(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[int] = []
    monkeypatch.setattr(
        "training.engine.throughput.measure_throughput",
        lambda config: timed.append(config.train.batch) or 1.0,
    )
    given = ["models=stargan", "preset=smoke", "minutes=5"]
    compare.describe([*given, "overrides=train.batch=3"])
    assert timed == [3]
    with pytest.raises(ValueError, match=r"stargan: .*size=50"):
        compare.describe([*given, "overrides=data.size=50"])


@pytest.mark.parametrize("model", ["stargan", "ganimation", "attgan"])
def test_a_bare_lr_is_refused_with_the_candidates(model: str) -> None:
    """Case 07: it used to set the judge's rate."""
    with pytest.raises(ValueError, match=r"lr: .* write .*judge\.lr|unknown key"):
        parse([f"model={model}", "preset=smoke", "lr=1e-4"], KNOWN)


def test_the_dry_run_is_started_as_users_do(work: Path) -> None:
    """Exit code 2 and one line; and it stays quick: 2 s of processor time were used before."""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", "run", "preset=smoke", "data.size=100", "--dry-run"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: stargan: size=100: a multiple of 16 is needed")
    assert time.monotonic() - start < 60
