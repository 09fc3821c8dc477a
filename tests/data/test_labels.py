"""Properties of the label space, for any data sets and any labels."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from training.data.labels import CONFLICTS, HAIR, LabelSet, LabelSpace

RIVALS = ("Bald", "Bangs", "Receding_Hairline", "Straight_Hair", "Wavy_Hair")
NAMES = (*HAIR, "Male", "Young", "Smiling", "Eyeglasses", *RIVALS)


@st.composite
def label_sets(draw: st.DrawFn, name: str = "a") -> LabelSet:
    names = tuple(draw(st.lists(st.sampled_from(NAMES), min_size=2, unique=True)))
    kind = draw(st.sampled_from(["binary", "onehot", "continuous"]))
    hair = tuple(n for n in names if n in HAIR)
    if kind != "binary":
        return LabelSet(name, kind, names)
    conflicts = tuple(pair for pair in CONFLICTS if set(pair) <= set(names))
    return LabelSet(name, kind, names, (hair,) if len(hair) > 1 else (), conflicts)


@st.composite
def spaces(draw: st.DrawFn) -> LabelSpace:
    count = draw(st.integers(1, 4))
    return LabelSpace(tuple(draw(label_sets(f"set{i}")) for i in range(count)))


@st.composite
def labelled(draw: st.DrawFn) -> tuple[LabelSpace, int, Tensor]:
    """A label space, one of its data sets, and labels valid for its groups and kind."""
    space = draw(spaces())
    index = draw(st.integers(0, len(space.sets) - 1))
    part, rows = space.sets[index], draw(st.integers(1, 6))
    labels = torch.zeros(rows, len(part.names))
    for row in labels:
        if part.kind == "onehot":
            row[draw(st.integers(0, len(part.names) - 1))] = 1
            continue
        value = st.floats(0, 1, width=32) if part.kind == "continuous" else st.integers(0, 1)
        row[:] = torch.tensor([float(draw(value)) for _ in part.names])
        for group in part.groups:
            places = [part.names.index(n) for n in group]
            row[places] = 0
            if (chosen := draw(st.sampled_from([None, *places]))) is not None:
                row[chosen] = 1
        for first, second in part.conflicts:
            if row[part.names.index(first)]:
                row[part.names.index(second)] = 0
    return space, index, labels


@given(spaces())
def test_slices_are_disjoint_and_cover_the_label_head(space: LabelSpace) -> None:
    places = [i for k in range(len(space.sets)) for i in range(space.dim_d)[space.slice(k)]]
    assert places == list(range(space.dim_d))
    assert space.dim_g == space.dim_d + (len(space.sets) if len(space.sets) > 1 else 0)


@given(labelled())
def test_encoding_holds_the_labels_the_mask_and_zeros(case: tuple[LabelSpace, int, Tensor]) -> None:
    space, index, labels = case
    code = space.encode(labels, index)
    assert code.shape == (len(labels), space.dim_g)
    assert code.dtype == torch.float32
    known = space.slice(index)
    assert torch.equal(code[:, known], labels)
    rest = code.clone()
    rest[:, known] = 0
    if len(space.sets) > 1:
        assert torch.equal(code[:, space.dim_d :].argmax(1), torch.full((len(labels),), index))
        rest[:, space.dim_d + index] -= 1
    assert not rest.any()


@given(labelled())
def test_the_wrong_width_is_refused(case: tuple[LabelSpace, int, Tensor]) -> None:
    space, index, labels = case
    with pytest.raises(ValueError, match="is needed"):
        space.encode(labels[:, 1:], index)


@given(labelled())
def test_tasks_keep_groups_exclusive_and_mark_changed_images(
    case: tuple[LabelSpace, int, Tensor],
) -> None:
    space, index, labels = case
    part, before = space.sets[index], labels.clone()
    tasks = space.tasks(labels, index)
    assert torch.equal(labels, before), "the source labels were written to"
    assert len({task.name for task in tasks}) == len(tasks)
    assert [task.name for task in tasks if task.single] == list(part.names)
    for task in tasks:
        assert task.target.shape == labels.shape
        assert task.changed.tolist() == [
            any(abs(a - b) >= 0.25 for a, b in zip(s, t, strict=True))
            for s, t in zip(labels.tolist(), task.target.tolist(), strict=True)
        ]
        for group in (*part.groups, *part.conflicts):
            assert (task.target[:, [part.names.index(n) for n in group]].sum(1) <= 1).all()
        if part.kind == "onehot":
            assert (task.target.sum(1) == 1).all()


@given(labelled())
def test_an_edit_leaves_every_other_label_unchanged(case: tuple[LabelSpace, int, Tensor]) -> None:
    space, index, labels = case
    part = space.sets[index]
    for task in space.tasks(labels, index):
        moved = {i for name in task.edits for i in part.group(name)}
        others = [i for i in range(len(part.names)) if i not in moved]
        if part.kind != "onehot":
            assert torch.equal(task.target[:, others], labels[:, others])
        if task.single:
            targets = task.target[:, part.names.index(task.name)]
            flips = part.kind == "binary" and not any(task.name in g for g in part.groups)
            column = labels[:, part.names.index(task.name)]
            on = torch.full((len(labels),), 0.7 if part.kind == "continuous" else 1.0)
            assert torch.equal(targets, 1 - column if flips else on)


def test_bald_and_bangs_exclude_each_other_and_are_switched_off_alone() -> None:
    """AttGAN's rules, when switched on and off."""
    names = ("Bald", "Bangs", "Receding_Hairline", "Male")
    part = LabelSet("celeba", "binary", names, (), CONFLICTS[:2])
    labels = torch.tensor([[0, 1, 0, 1], [1, 0, 1, 0]])
    tasks = {t.name: t for t in LabelSpace((part,)).tasks(labels, 0)}
    assert tasks["Bald"].target.tolist() == [[1, 0, 0, 1], [0, 0, 1, 0]]
    assert tasks["Bangs"].target.tolist() == [[0, 0, 0, 1], [0, 1, 0, 0]]
    assert tasks["Receding_Hairline"].target.tolist() == [[0, 0, 1, 1], [1, 0, 0, 0]]
    assert tasks["Male"].target.tolist() == [[0, 1, 0, 0], [1, 0, 1, 1]]


def test_a_stored_space_without_conflicts_is_read() -> None:
    old = {"sets": [{"name": "a", "kind": "binary", "names": ["x", "y"], "groups": [["x", "y"]]}]}
    space = LabelSpace.from_json(old)
    assert space.sets == (LabelSet("a", "binary", ("x", "y"), (("x", "y"),)),)
    assert space.to_json() == old


def test_the_papers_combinations_change_hair_gender_and_age_together() -> None:
    names = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Male", "Young")
    space = LabelSpace((LabelSet("celeba", "binary", names, (names[:3],)),))
    tasks = {t.name: t for t in space.tasks(torch.tensor([[0, 0, 1, 1, 0], [0, 0, 0, 0, 1]]), 0)}
    assert list(tasks) == [*names, "H+G", "H+A", "G+A", "H+G+A"]
    assert tasks["H+G+A"].target.tolist() == [[1, 0, 0, 0, 1], [1, 0, 0, 1, 0]]
    assert tasks["G+A"].target.tolist() == [[0, 0, 1, 0, 1], [0, 0, 0, 1, 0]]
    assert tasks["Brown_Hair"].changed.tolist() == [False, True]
    assert not tasks["H+G"].single


def test_the_papers_three_settings_have_their_widths() -> None:
    """5 attributes, 8 expressions, both with the mask: the widths behind the golden counts."""
    celeba = LabelSet("celeba", "binary", NAMES[:5])
    rafd = LabelSet("rafd", "onehot", tuple("abcdefgh"))
    widths = [(s.dim_g, s.dim_d) for s in map(LabelSpace, ((celeba,), (rafd,), (celeba, rafd)))]
    assert widths == [(5, 5), (8, 8), (15, 13)]


@given(spaces())
def test_json_gives_back_the_same_space(space: LabelSpace) -> None:
    assert LabelSpace.from_json(json.loads(json.dumps(space.to_json()))) == space


def test_impossible_spaces_are_refused() -> None:
    with pytest.raises(ValueError, match="unique"):
        LabelSet("a", "binary", ("x", "x"))
    with pytest.raises(ValueError, match="unknown labels"):
        LabelSet("a", "binary", ("x",), (("x", "y"),))
    one = LabelSet("a", "binary", ("x",))
    with pytest.raises(ValueError, match="unique names"):
        LabelSpace((one, one))
    with pytest.raises(ValueError, match="has a"):
        LabelSpace((one,)).index("b")


def test_an_intensity_edit_changes_faces_that_do_not_show_it() -> None:
    """Target 0.7 for one unit, the others unchanged; 0.5 counts as equal, 0.4 does not."""
    space = LabelSpace((LabelSet("a", "continuous", ("AU12", "AU25")),))
    labels = torch.tensor([[0.0, 0.3], [0.4, 0.3], [0.5, 0.3], [1.0, 0.3]])
    task = space.tasks(labels, 0)[0]
    assert task.target.tolist() == [[pytest.approx(0.7), pytest.approx(0.3)]] * 4
    assert task.changed.tolist() == [True, True, False, True]
