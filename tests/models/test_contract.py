"""The contract between models and the library: a new model is one file and one line."""

import copy
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from runs import QUICK, go, losses, session_of, weights
from toydata import SETS
from toymodel import Toy
from training import release, translate
from training.core.config import EvalConfig, JudgeConfig, to_json
from training.core.files import read_json
from training.data.labels import LabelSpace
from training.engine import checkpoint
from training.engine.distributed import freeze
from training.evaluate import evaluate
from training.evaluation.diagnostics import balance
from training.inference.translator import load_translator
from training.judge import judge
from training.models import MODELS, configure
from training.models.base import Model
from training.models.layers import eval_mode
from training.registry.pyfunc import ENTRY, PACKAGE, modules


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> str:
    """The line in `training/models/__init__.py`."""
    monkeypatch.setitem(MODELS, "toy", Toy)
    return "toy"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's and SQLAlchemy's own
@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*[Tt]ype hints? :UserWarning")
@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # MLflow leaves SQLite pools open
def test_a_new_model_is_one_file_and_one_line(
    toy: str, binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained, resumed, evaluated, registered and used, like the built-in models."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    config = replace(QUICK, images=32, decay_images=8)
    model = go(binary, tmp_path / "run", config, name=toy)
    shutil.copytree(tmp_path / "run", tmp_path / "cut")
    for path in checkpoint.saved(tmp_path / "cut" / "checkpoints")[:-1]:
        shutil.rmtree(path)
    assert weights(go(binary, tmp_path / "cut", config, name=toy)) == weights(model)

    words = ("judge", "evaluation", "page", "metrics", "version")
    frozen, scores, page, metrics, version = (tmp_path / f"{word}.json" for word in words)
    brief = to_json(JudgeConfig(images=(16,), batch=16, floor=0.0))
    judge(binary, judge_config=brief, out=frozen)
    settings = to_json(EvalConfig(limit=4, bootstrap=20))
    evaluate(model, binary, frozen, eval_config=settings, out=scores, report=page, metrics=metrics)
    found = read_json(metrics)
    assert {"symptom_balance", "symptom_features", "success_mean"} <= found.keys()
    networks = load_translator(model).nets
    counts = {n: sum(p.numel() for p in net.parameters()) for n, net in networks.items()}
    assert found["parameters"] == sum(counts.values()) - counts["D"]

    release.main(["register", str(model), str(scores), str(binary), "--name", toy,
                  "--out", str(version)])  # fmt: skip
    release.main(["verify", f"{toy}/1"])
    pixels = np.random.RandomState(0).randint(0, 256, (16, 32, 3), np.uint8)
    face, out = tmp_path / "face.png", tmp_path / "out.png"
    Image.fromarray(pixels).save(face)
    edit = [f"{toy}/1", str(face), str(out), "Blond_Hair", "--has", "Black_Hair"]
    translate.main([*edit, "--intensity", "0.5", "--box", "0,0,16,16"])
    with Image.open(out) as picture:
        changed = np.asarray(picture) != pixels
    assert changed[8:, :16].any()
    assert not changed[:8].any()  # kept by the mask of `paint`
    assert not changed[:, 16:].any()
    with pytest.raises(ValueError, match="toy takes no seed; it takes labels, intensity"):
        translate.main([*edit, "--seed", "1"])


def test_a_networks_gradient_is_clipped_to_its_own_norm(binary: Path) -> None:
    """Adam's first moment after one step is (1 − β₁) times the gradient."""
    norms = {}
    for clip in (0.0, 0.01):
        session = session_of(Toy(clip=clip), binary)
        session.advance()
        moments = session.state.optim["D"].state.values()
        norms[clip] = float(torch.cat([m["exp_avg"].flatten() for m in moments]).norm()) / 0.5
    assert norms[0.01] == pytest.approx(0.01, rel=1e-3)
    assert norms[0.0] > 0.02


@pytest.mark.parametrize("clip", [0.01, 1e4])
def test_a_clipped_step_is_that_of_torchs_own_tools(binary: Path, clip: float) -> None:
    """Each network of a phase by its own norm, and unchanged below it; weights are bit-equal."""
    session = session_of(Toy(clip=clip), binary)
    batch = session.order.show(session.draw(0, 0, 0, 0))
    for phase in session.phases[:2]:
        nets = copy.deepcopy(session.state.nets)
        freeze(nets, phase.trains)
        optim = {n: torch.optim.Adam(nets[n].parameters(), 1e-3, (0.5, 0.999), fused=True)
                 for n in phase.trains}  # fmt: skip
        torch.manual_seed(0)
        session.update(phase, batch)
        torch.manual_seed(0)
        with eval_mode({n: nets[n] for n in phase.eval_nets}):
            sum(phase.loss(nets, batch).values()).backward()  # type: ignore[union-attr]
        for n in phase.trains:
            before = torch.nn.utils.clip_grad_norm_(nets[n].parameters(), clip)
            assert clip > 1 or before > 2 * clip
            optim[n].step()
            for ours, theirs in zip(session.state.nets[n].parameters(), nets[n].parameters(),
                                    strict=True):  # fmt: skip
                assert torch.equal(ours, theirs)


def test_a_phase_puts_its_eval_nets_in_evaluation_mode(binary: Path) -> None:
    """D has dropout: off in G's phase, on in its own, and on again afterwards."""
    session = session_of(Toy(), binary)
    d, modes = session.state.nets["D"], []
    d.register_forward_pre_hook(lambda *_: modes.append(d.training))
    session.advance()
    assert modes == [True, True, False]
    assert d.training


def test_directions_alternate_and_each_trains_its_own_generator(binary: Path) -> None:
    session = session_of(Toy(), binary)
    turns = []
    for _ in range(5):
        before = {n: [p.clone() for p in m.parameters()] for n, m in session.state.nets.items()}
        session.advance()
        turns.append(
            [
                n
                for n, m in session.state.nets.items()
                if n[0] == "G" and not all(map(torch.equal, before[n], m.parameters()))
            ]
        )
    assert turns == [["Gab0"], ["Gba0"], ["Gab1"], ["Gba1"], ["Gab0"]]


def test_a_model_without_a_warm_up_trains_at_once(binary: Path, toy: str, tmp_path: Path) -> None:
    """For any `warmup_images`, the first row of the log has the losses of its phases."""
    go(binary, tmp_path / "run", replace(QUICK, images=16, decay_images=0), name=toy)
    assert {"d/real", "d/fake", "g/adv", "g/rec"} <= losses(tmp_path / "run")[0].keys()


def test_the_balance_applies_the_loss_factor() -> None:
    """Unhalved squares, factor ½: a D that outputs ½ everywhere has no lead."""
    (even,) = balance(Toy(), {"d/real": 0.25, "d/fake": 0.25}, 16)
    assert even.value == pytest.approx(0)
    (sure,) = balance(Toy(), {"d/real": 0.0, "d/fake": 0.0}, 16)
    assert sure.value == 1


@pytest.mark.parametrize("name", MODELS)
def test_every_model_implements_the_interface(name: str) -> None:
    """Presets of its own class by name, and a tiny version that supports its label space."""
    model = MODELS[name]
    assert issubclass(model, Model)
    rows = model.presets()
    assert {"demo", "smoke"} <= rows.keys()
    assert {type(row.model) for row in rows.values()} == {model}
    assert {preset for key, preset in configure.PRESETS if key == name} == rows.keys()
    tiny = model.tiny()
    own = next(sets for sets in SETS.values() if [s.kind for s in sets] == [model.label_kinds[0]])
    space = LabelSpace(own)
    nets = tiny.networks(space, 16)
    assert tiny.optim(space).keys() == nets.keys()
    assert set(tiny.averaged(space)) <= nets.keys()
    assert set(tiny.deployed(nets) or ()) <= nets.keys()
    for phase in (*tiny.warmup(space), *tiny.phases(space)):
        assert {*phase.trains, *phase.keep_grad, *phase.eval_nets} <= nets.keys()


@pytest.mark.parametrize("name", MODELS)
def test_an_unsupported_label_space_is_refused(name: str) -> None:
    """Also by `networks`, not only by the class attributes."""
    model = MODELS[name].tiny()
    for sets in SETS.values():
        space = LabelSpace(sets)
        fits = {s.kind for s in sets} <= set(model.label_kinds)
        if fits and (model.several_sets or len(sets) == 1):
            model.networks(space, 16)
        else:
            with pytest.raises(ValueError, match=f"{type(model).__name__} takes "):
                model.networks(space, 16)


def test_code_saved_with_a_registered_model_is_small() -> None:
    """Networks, labels, settings, pictures and marks; no engine, store, tracker or evaluation."""
    travels = {path.relative_to(PACKAGE).as_posix() for path in modules(ENTRY)}
    models = {path for path in travels if path.startswith("models/")}
    assert models == {f"models/{path.name}" for path in (PACKAGE / "models").glob("*.py")} - {
        "models/optim.py",
        "models/configure.py",
    }
    assert travels - models <= {
        "__init__.py", "core/__init__.py", "core/config.py", "core/environment.py",
        "core/files.py", "core/references.py", "data/__init__.py", "data/batch.py",
        "data/labels.py", "data/memory_format.py",
        # of picture files, label names and marks
        "data/pictures.py", "inference/__init__.py", "inference/marks.py", "inference/request.py",
        "rendering/__init__.py", "rendering/fonts.py",
    }  # fmt: skip
