"""Models side by side: one page from what each run's evaluation says, and from the models."""

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from scipy.stats import t as student

from training.core.files import read_json
from training.core.provenance import machine
from training.evaluation.comparison.figures import across, wall
from training.evaluation.comparison.runs import Entry, grouped, named
from training.evaluation.metrics import Interval, bootstrap
from training.evaluation.scorecard import percent
from training.evaluation.summary import certain, clusters
from training.rendering.charts import cost_plot
from training.rendering.html import heading, note, page, paragraph, picture, table
from training.tracking import client as tracking

DRAWS = 1_000  # of the bootstrap
SHARES = ("success_mean", "preservation_mean")  # between 0 and 1


def _draws(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Bootstrap draws of E1, E2, E3 and E6 of one seed; the same people are drawn for each seed."""
    edits = table[table["single"] & table["changed"]]
    images = table.drop_duplicates(["dataset", "index"])
    guarded = edits[edits["others"] > 0]
    wanted = {
        "success_mean": (edits, "success", edits["dataset"] + "/" + edits["task"]),
        "preservation_mean": (guarded, "preservation", guarded["dataset"] + "/" + guarded["task"]),
        "identity_cosine": (edits, "identity_cosine", edits["single"]),
        "self_psnr": (images, "self_psnr", images["dataset"].eq("")),
        "self_ssim": (images, "self_ssim", images["dataset"].eq("")),
    }
    return {
        name: bootstrap(rows[[column]].to_numpy(float), groups.to_numpy(), clusters(rows), DRAWS)
        for name, (rows, column, groups) in wanted.items()
        if len(rows)
    }


def intervals(tables: Sequence[pd.DataFrame]) -> dict[str, Interval]:
    """95 % intervals of a system's means over its seeds.

    Of one seed by drawing people whole. Of several by Student's t on the variance that the seeds
    show and that of the people drawn, with Welch–Satterthwaite's degrees of freedom: two or three
    seeds say little of how far others would come, and drawing from them would say less.
    """
    seeds = [_draws(table) for table in tables]
    people = len(set(clusters(tables[0][tables[0]["single"] & tables[0]["changed"]])))
    out = {}
    for name in seeds[0]:
        values = np.stack([draws[name][:, 0] for draws in seeds], 1)
        share = name in SHARES
        if share and (ends := certain(values, people)):
            out[name] = ends
        elif len(seeds) > 1:
            out[name] = _of_seeds(values, 1.0 if share else np.inf)
        else:
            low, high = np.percentile(values, [2.5, 97.5])
            out[name] = (float(low), float(high))
    return out


def _of_seeds(values: np.ndarray, most: float) -> Interval:
    """Of the mean over seeds of `values` (draws of people, seeds); shares have a `most`."""
    means, n = values.mean(0), values.shape[1]
    between, people = means.var(ddof=1) / n, values.mean(1).var(ddof=1)
    freedom = (n - 1) * ((between + people) / between) ** 2 if between else np.inf
    half = student.ppf(0.975, freedom) * np.sqrt(between + people)
    least = 0.0 if np.isfinite(most) else -np.inf
    low, high = np.clip([means.mean() - half, means.mean() + half], least, most)
    return float(low), float(high)


def _system(entries: Sequence[Entry]) -> dict[str, Any]:
    """One system's numbers: means over its seeds, and their intervals."""
    numbers = [entry.numbers for entry in entries]
    means = {k: mean(n[k] for n in numbers) for k in numbers[0] if all(k in n for n in numbers)}
    tables = [pd.read_parquet(e.evaluation.local("scores.parquet")) for e in entries]
    return {
        **means,
        "intervals": intervals(tables),
        "learned": all(n["learned"] == 1 for n in numbers),
        "minutes": mean(entry.minutes for entry in entries),
        "images": mean(float(entry.model.meta.images) for entry in entries),
        "seeds": {
            entry.model.meta.seed: n["success_mean"]
            for entry, n in zip(entries, numbers, strict=True)
        },
    }


def _of(n: dict[str, Any], name: str, show: Callable[[float], str]) -> str:
    """A mean with its interval below it, as a cell."""
    if name not in n["intervals"]:
        return "–"
    low, high = n["intervals"][name]
    return f"{show(n[name])}\n[{show(low)} – {show(high)}]"


def _quality(systems: dict[str, dict[str, Any]]) -> Markup:
    """In the shape of StarGAN's Table 3 and STGAN's: errors and reconstruction."""
    headers = ["model", "learned", "single edits succeed, %", "error, %", "worst edit, %",
               "others preserved, %", "identity", "PSNR, dB", "SSIM"]  # fmt: skip
    rows = [
        [
            name, "yes" if n["learned"] else "did not learn",
            _of(n, "success_mean", hundredths), hundredths(1 - n["success_mean"]),
            hundredths(n["success_worst"]), _of(n, "preservation_mean", hundredths),
            _of(n, "identity_cosine", "{:.3f}".format), _of(n, "self_psnr", "{:.2f}".format),
            _of(n, "self_ssim", "{:.3f}".format),
        ]
        for name, n in systems.items()
    ]  # fmt: skip
    return table(headers, rows)


def hundredths(share: float) -> str:
    return f"{100 * share:.1f}"


def _seeds(systems: dict[str, dict[str, Any]]) -> list[Markup]:
    """What every seed gave, where there are several."""
    seeds = sorted({seed for n in systems.values() for seed in n["seeds"]})
    if len(seeds) < 2:
        return []
    rows = [
        [name, *(hundredths(n["seeds"][k]) if k in n["seeds"] else "–" for k in seeds)]
        for name, n in systems.items()
    ]
    return [table(["single edits succeed, %", *(f"seed {k}" for k in seeds)], rows)]


def _soundness(names: dict[str, list[Entry]], systems: dict[str, dict[str, Any]]) -> Markup:
    """Whether D and G held each other, what was alarming, and whether the people are the same."""
    rows = []
    for name, entries in names.items():
        took = [entry.model.about.get("training", {}) for entry in entries]
        ends = [t[k] for t in took for k in ("balance_least", "balance_most") if k in t]
        signs = [read_json(e.evaluation.local("details.json"))["symptoms"] for e in entries]
        bad = [f"{s['name']} {s['value']:.3g}: {s['says']}" for of in signs for s in of if s["bad"]]
        rates = [v for k, v in systems[name].items() if k.startswith("verification_rate")]
        rows.append([
            name, f"{min(ends):.3f} – {max(ends):.3f}" if ends else "–",
            hundredths(mean(rates)) if rates else "–", "; ".join(dict.fromkeys(bad)) or "none",
        ])  # fmt: skip
    headers = ["model", "D's lead over G in training", "person verified (E6), %", "alarms"]
    return table(headers, rows)


def _intensities(systems: dict[str, dict[str, Any]]) -> list[Markup]:
    """How far the judged intensities are from those asked for, where labels are such."""
    far = [
        f"{name} {n['error_mean']:.3f} (copied input {n['copy_error_mean']:.3f}, the judge on real "
        f"images {mean(v for k, v in n.items() if k.startswith('judge_error')):.3f})"
        for name, n in systems.items()
        if "error_mean" in n
    ]
    if not far:
        return []
    return [paragraph(f"Mean distance of judged intensities from those asked: {'; '.join(far)}.")]


def _cost(systems: dict[str, dict[str, Any]]) -> Markup:
    """What each takes: to keep, to use, to train."""
    headers = ["model", "parameters × networks, million", "in training, million", "GMAC",
               "images/s, batch 16", "images trained on", "minutes of training"]  # fmt: skip
    rows = [
        [name, f"{n['parameters'] / n['models'] / 1e6:.2f} × {n['models']:.0f}",
         f"{n['parameters_total'] / 1e6:.2f}", f"{n['gmac']:.2f}",
         f"{n['images_per_second_16']:.0f}", f"{n['images']:,.0f}", f"{n['minutes']:.1f}"]
        for name, n in systems.items()
    ]  # fmt: skip
    return table(headers, rows)


def _tasks(names: dict[str, list[Entry]]) -> Markup:
    """Success of every edit by every model, as STGAN's attribute table has it."""
    columns = {}
    for name, entries in names.items():
        details = [read_json(e.evaluation.local("details.json"))["tasks"] for e in entries]
        columns[name] = {
            f"{t['dataset']} {t['task']}": mean(seed[i]["success"] for seed in details)
            for i, t in enumerate(details[0])
        }
    tasks = next(iter(columns.values()))
    rows = [[task, *(percent(column[task]) for column in columns.values())] for task in tasks]
    return table(["edit", *columns], rows)


def report(
    entries: Sequence[Entry], title: str, remark: str = "", failed: Sequence[str] = ()
) -> str:
    """The page: tables, picture wall and cost of every group of models whose scores compare."""
    parts: list[Markup | str] = [note(remark, "warn")] if remark else []
    parts += [note(f"Failed: {line}", "bad") for line in failed]
    groups = grouped(entries)
    for group in groups:
        names = named(group)
        systems = {name: _system(found) for name, found in names.items()}
        sets = "+".join(part.name for part in group[0].dataset.meta.datasets)
        if len(groups) > 1:
            parts.append(heading(f"{', '.join(names)} on {sets or 'their data'}"))
        copied = mean(n["copy_success_mean"] for n in systems.values())
        parts += [
            _quality(systems),
            paragraph(
                f"Success by the same frozen judge on the same held-out images; a copied input "
                f"scores {percent(copied)}. In brackets 95 % intervals, over whole people "
                "and, where there are several, over seeds. PSNR and SSIM are of the "
                "self-reconstruction, on uint8."
            ),
            *_seeds(systems),
            *_intensities(systems),
            picture(wall(names), "The same held-out images under the same edits, a row a model."),
            _tasks(names),
            _soundness(names, systems),
            paragraph(
                "D's lead is 0 where it cannot tell real from made and 1 where it is sure. A "
                "person is verified whose edit is nearer to the input than all but one in a "
                "thousand pairs of two people are to each other."
            ),
            _cost(systems),
            picture(
                cost_plot(systems),
                "Quality against cost; parameters are of all that translation needs.",
            ),
        ]
    if mixed := across(groups):
        text = "The same held-out images under the edits that models of several label spaces know."
        parts += [heading("Across label spaces"), picture(wall(mixed), text)]
    return page(title, parts, f"judged by one protocol; {date.today():%Y-%m-%d}, {machine()}")


def record(entries: Sequence[Entry], page: Path, facts: Mapping[str, str]) -> None:
    """One run of MLflow for the whole comparison: every system's numbers, and the page."""
    if tracking.uri() == "off":
        return
    chosen = ("success_mean", "success_worst", "preservation_mean", "identity_cosine", "self_psnr",
              "self_ssim", "parameters", "gmac", "minutes", "images", "learned")  # fmt: skip
    numbers: dict[str, float] = {}
    for name, found in named(entries).items():
        system = _system(found)
        numbers |= {f"{name}/{key}": float(system[key]) for key in chosen if key in system}
        for key, (low, high) in system["intervals"].items():
            numbers |= {f"{name}/{key}_low": low, f"{name}/{key}_high": high}
    tracking.log_run(
        "compare", page.stem, {"role": "comparison"}, {**facts, "machine": machine()},
        numbers, {page.name: page},
    )  # fmt: skip
