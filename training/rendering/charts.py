"""The plots of the pages, by matplotlib."""

import io
from collections.abc import Sequence
from typing import Any


def bars(tasks: Sequence[dict[str, Any]], ceilings: Sequence[float]) -> bytes:
    """PNG: success of each task with its 95 % interval, copied input and the judge's ceiling."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Plot

    names = [f"{t['dataset']}  {t['task']}" for t in tasks][::-1]
    values = [t["success"] for t in tasks][::-1]
    errors = [
        [t["success"] - t["low"] for t in tasks][::-1],
        [t["high"] - t["success"] for t in tasks][::-1],
    ]
    # Wilson's interval of a share of 1 lies below it: no error bar has a negative length
    errors = [[max(0.0, e) for e in side] for side in errors]
    plot = Plot(figsize=(8.6, 0.9 + 0.3 * len(tasks)), dpi=110, layout="constrained")
    FigureCanvasAgg(plot)
    axes = plot.add_subplot()
    colours = ["#3b74c4" if t["single"] else "#8fb0dd" for t in tasks][::-1]
    places = list(range(len(tasks)))
    axes.barh(places, values, color=colours, height=0.62, zorder=2)
    axes.errorbar(
        values,
        places,
        xerr=errors,
        fmt="none",
        ecolor="#1d2330",
        elinewidth=1.2,
        capsize=3,
        zorder=3,
    )
    copied = [t["copy_success"] for t in tasks][::-1]
    axes.scatter(copied, places, marker="D", s=22, color="#c98a11", zorder=4, label="copied input")
    axes.scatter(ceilings[::-1], places, marker="|", s=110, color="#2c8a4b", zorder=4,
                 label="judge's accuracy on real images")  # fmt: skip
    axes.set_yticks(places, names, fontsize=9)
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


def cost_plot(systems: dict[str, dict[str, Any]]) -> bytes:
    """PNG: success against parameters, training minutes and GMAC, a mark a model."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    plot = Figure(figsize=(10.5, 3.6), dpi=110, layout="constrained")
    FigureCanvasAgg(plot)
    shown = (("parameters", "parameters, million", 1e6), ("gmac", "GMAC a translation", 1.0),
             ("minutes", "minutes of training", 1.0))  # fmt: skip
    for axes, (key, title, unit) in zip(plot.subplots(1, 3, sharey=True), shown, strict=True):
        for name, n in systems.items():
            at, high = n[key] / unit, 100 * n["success_mean"]
            ends = n["intervals"]["success_mean"]
            errors = [[max(0.0, high - 100 * ends[0])], [max(0.0, 100 * ends[1] - high)]]
            axes.errorbar([at], [high], yerr=errors, fmt="o", color="#3b74c4", capsize=3)
            axes.annotate(
                name.replace(":", ":\n"), (at, high), textcoords="offset points", xytext=(6, 5),
                fontsize=9, in_layout=False,  # a long name takes no room from the plots
            )  # fmt: skip
        axes.set_xlabel(title, fontsize=9)
        axes.set_ylim(0, 104)
        # Room for the last one's name; a scale even where all cost nothing.
        axes.set_xlim(0, 1.35 * max(n[key] / unit for n in systems.values()) or 1.0)
        axes.grid(color="#e1e4ea")
        axes.set_axisbelow(True)
    plot.axes[0].set_ylabel("single edits succeed, %", fontsize=9)
    out = io.BytesIO()
    plot.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()
