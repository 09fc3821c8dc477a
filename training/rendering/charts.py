"""Plots for the pages, drawn with matplotlib."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from training.rendering import fonts


class Bar(NamedTuple):
    """One task in 0..1: success, 95 % interval, copied input's success, judge's accuracy."""

    name: str
    success: float
    low: float
    high: float
    copied: float
    ceiling: float
    pale: bool = False


class Mark(NamedTuple):
    """A model's success in 0..1 with its 95 % interval, and its costs."""

    name: str
    success: float
    low: float
    high: float
    parameters: float
    gmac: float
    minutes: float


def bars(tasks: Sequence[Bar]) -> bytes:
    """PNG: success of each task with 95 % interval, copied input and the judge's accuracy.

    Names that no font here can draw are numbers; `fonts.legend` of the names says which.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = tasks[::-1]  # bars are drawn from the bottom up
    values = [t.success for t in shown]
    # Wilson's interval of a share of 1 ends below 1; error bars must not be negative
    errors = [
        [max(0.0, t.success - t.low) for t in shown],
        [max(0.0, t.high - t.success) for t in shown],
    ]
    plot = Figure(figsize=(8.6, 0.9 + 0.3 * len(tasks)), dpi=110, layout="constrained")
    FigureCanvasAgg(plot)
    axes = plot.add_subplot()
    colours = ["#8fb0dd" if t.pale else "#3b74c4" for t in shown]
    positions = list(range(len(tasks)))
    axes.barh(positions, values, color=colours, height=0.62, zorder=2)
    axes.errorbar(
        values,
        positions,
        xerr=errors,
        fmt="none",
        ecolor="#1d2330",
        elinewidth=1.2,
        capsize=3,
        zorder=3,
    )
    copied, ceilings = [t.copied for t in shown], [t.ceiling for t in shown]
    axes.scatter(
        copied, positions, marker="D", s=22, color="#c98a11", zorder=4, label="copied input"
    )
    axes.scatter(ceilings, positions, marker="|", s=110, color="#2c8a4b", zorder=4,
                 label="judge on real images")  # fmt: skip
    keys, _ = fonts.numbered(t.name for t in tasks)
    axes.set_yticks(positions, [keys.get(t.name, t.name) for t in shown], fontsize=9)
    for label in axes.get_yticklabels():
        if path := fonts.path_of(label.get_text()):
            label.set_fontproperties(Path(path))
            label.set_fontsize(9)
    axes.set_xlim(0, 1.02)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0], ["0", "25 %", "50 %", "75 %", "100 %"], fontsize=9)
    axes.set_xlabel("edit success, 95 % interval", fontsize=9)
    axes.grid(axis="x", color="#e1e4ea", zorder=0)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(left=False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False, fontsize=9)
    out = io.BytesIO()
    plot.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def cost_plot(marks: Sequence[Mark]) -> bytes:
    """PNG: success against parameters, GMAC and training minutes, one mark per model."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    plot = Figure(figsize=(10.5, 3.6), dpi=110, layout="constrained")
    FigureCanvasAgg(plot)
    shown = (("parameters", "parameters, million", 1e6), ("gmac", "GMAC per translation", 1.0),
             ("minutes", "training minutes", 1.0))  # fmt: skip
    for axes, (key, title, unit) in zip(plot.subplots(1, 3, sharey=True), shown, strict=True):
        costs = [(getattr(mark, key) / unit, mark) for mark in marks]
        costs = [(at, mark) for at, mark in costs if not math.isnan(at)]  # unknown of imported ones
        for at, mark in costs:
            height = 100 * mark.success
            errors = [[max(0.0, height - 100 * mark.low)], [max(0.0, 100 * mark.high - height)]]
            axes.errorbar([at], [height], yerr=errors, fmt="o", color="#3b74c4", capsize=3)
            axes.annotate(
                mark.name.replace(":", ":\n"), (at, height), textcoords="offset points",
                xytext=(6, 5), fontsize=9, in_layout=False,  # long names must not shrink the plots
            )  # fmt: skip
        axes.set_xlabel(title, fontsize=9)
        axes.set_ylim(0, 104)
        # room for the last name; a valid scale even if all costs are 0
        axes.set_xlim(0, 1.35 * max((at for at, _ in costs), default=0.0) or 1.0)
        axes.grid(color="#e1e4ea")
        axes.set_axisbelow(True)
    plot.axes[0].set_ylabel("single-edit success, %", fontsize=9)
    out = io.BytesIO()
    plot.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


class Try(NamedTuple):
    """One trial of a search: its number, score in 0..1, and whether it is complete and sound."""

    number: int
    score: float
    complete: bool
    sound: bool


def search_curve(tries: Sequence[Try]) -> bytes:
    """PNG: each trial's score by its number, and the best complete and sound one so far."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    plot = Figure(figsize=(8.6, 3.4), dpi=110, layout="constrained")
    FigureCanvasAgg(plot)
    axes = plot.add_subplot()
    kinds = (
        ("complete", "o", "#3b74c4", [t for t in tries if t.complete and t.sound]),
        ("complete, below a floor of the gate", "x", "#b3452f",
         [t for t in tries if t.complete and not t.sound]),
        ("pruned, at its last judgement", "v", "#9aa3b2", [t for t in tries if not t.complete]),
    )  # fmt: skip
    for label, marker, colour, shown in kinds:
        if shown:
            axes.scatter([t.number for t in shown], [100 * t.score for t in shown], s=28,
                         marker=marker, color=colour, label=label, zorder=3)  # fmt: skip
    best, line = -math.inf, []
    for one in sorted(tries):
        if one.complete and one.sound:
            best = max(best, one.score)
        line.append((one.number, 100 * best))
    known = [(number, score) for number, score in line if score > -math.inf]
    if known:
        axes.step(*zip(*known, strict=True), where="post", color="#2c8a4b", label="best so far")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("trial", fontsize=9)
    axes.set_ylabel("single-edit success, validation, %", fontsize=9)
    axes.set_ylim(0, 104)
    axes.grid(color="#e1e4ea", zorder=0)
    axes.set_axisbelow(True)
    if tries:
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False,
                    fontsize=9)  # fmt: skip
    out = io.BytesIO()
    plot.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()
