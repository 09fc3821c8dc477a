"""The evaluation as one HTML page: verdict first, then pictures, then every table."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from training.evaluation.gallery import Figure
from training.rendering.charts import bars
from training.rendering.html import heading, note, page, paragraph, picture, table

FREE = {"frechet_vgg": "Fréchet distance (VGG judge)", "fid": "FID (Inception)"}


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def span(low: float, high: float) -> str:
    return f"{100 * low:.1f} – {100 * high:.1f} %"


def _verdict(numbers: dict[str, float], details: dict[str, Any]) -> list[Markup]:
    singles = [t for t in details["tasks"] if t["single"]]
    least = min(singles, key=lambda t: t["success"])
    most = max(singles, key=lambda t: t["success"])
    learned = numbers["learned"] == 1
    mean, low, high = (numbers[f"success_{k}"] for k in ("mean", "low", "high"))
    success = f"{percent(mean)} [{span(low, high)}]"
    copied, blind = (percent(numbers[f"{k}_success_mean"]) for k in ("copy", "blind"))
    said = (
        f"Single edits succeed in {success}; a copied input scores {copied}, the model's "
        f"self-reconstruction {blind}."
        if learned
        else f"Did not learn: single edits succeed in {success}, not clearly above the {copied} "
        f"of a copied input and the {blind} of the model's self-reconstruction."
    )
    rows: list[list[Any]] = [
        ["single edits succeed (E1)", success],
        ["best task", f"{most['dataset']} {most['task']}: {percent(most['success'])}"],
        ["worst task", f"{least['dataset']} {least['task']}: {percent(least['success'])}"],
        ["other labels preserved (E2)", _share(numbers, "preservation_mean")],
        [
            "self-reconstruction (E3)",
            f"{numbers['self_psnr']:.2f} dB, SSIM {numbers['self_ssim']:.3f}",
        ],
        [
            "cycle reconstruction (E3)",
            f"{numbers['cycle_psnr']:.2f} dB, SSIM {numbers['cycle_ssim']:.3f}",
        ],
        ["identity cosine (E6)", f"{numbers['identity_cosine']:.3f}"],
        *([f"person verified, {v['dataset']} (E6)", _verified(v)] for v in details["verification"]),
    ]
    for name, word in FREE.items():
        for dataset in dict.fromkeys(t["dataset"] for t in singles):
            value, floor = numbers.get(f"{name}_{dataset}"), numbers.get(f"{name}_floor_{dataset}")
            if value is not None and floor is not None:
                rows.append(
                    [f"{word}, {dataset} (E4)", f"{value:.3g} (real against real {floor:.3g})"]
                )
    return [note(said, "good" if learned else "bad"), table(["", ""], rows)]


def _share(numbers: dict[str, float], name: str) -> str:
    return percent(numbers[name]) if name in numbers else "–"


def _verified(found: dict[str, Any]) -> str:
    """The rate and what its threshold rests on, or that there is too little for one."""
    pairs = f"{found['impostors']:,} pairs of two people (of {found['people']})"
    if "rate" not in found:
        return f"not known: {pairs}; {found['needed']:,} are needed"
    real = f"; of real pairs {percent(found['real_rate'])}" if "real_rate" in found else ""
    return (
        f"{percent(found['rate'])} [{span(found['low'], found['high'])}] where {found['passing']} "
        f"of {pairs} pass for one, 1 in {found['needed']:,}{real}"
    )


def _edits(details: dict[str, Any], ceilings: dict[str, float]) -> list[Markup]:
    labels = {
        f["name"]: {n: v["accuracy"] for n, v in f["labels"].items()}
        for f in details["judge_facts"]["datasets"]
    }
    rows, tops = [], []
    for t in details["tasks"]:
        ceiling = labels[t["dataset"]].get(t["task"])
        tops.append(ceilings[t["dataset"]] if ceiling is None else ceiling)
        rows.append(
            [
                t["dataset"], t["task"], percent(t["success"]), span(t["low"], t["high"]),
                percent(t["copy_success"]), "" if ceiling is None else percent(ceiling),
                percent(t["preservation"]) if t["others"] else "–",
                f"{t['identity_cosine']:.3f}", t["images"], t["people"],
            ]
        )  # fmt: skip
    headers = ["data", "task", "success", "95 % interval", "copied input", "judge on real images",
               "others preserved", "identity", "images", "people"]  # fmt: skip
    return [
        heading("Every task (E1, E2, E6)"),
        paragraph(
            "Success: the judge sees every label of the edited group as asked, among images that "
            "the task changes. Intervals draw whole people. Preserved: labels outside the edit "
            "that are judged as on the input."
        ),
        picture(
            bars(details["tasks"], tops),
            "Pale: combinations. Success can pass the mark: a model may draw labels more plainly "
            "than real images show them.",
        ),
        table(headers, rows),
    ]


def _quality(numbers: dict[str, float], details: dict[str, Any]) -> list[Markup]:
    rows = [
        [what, f"{numbers[f'{k}_psnr']:.2f}", f"{numbers[f'{k}_ssim']:.4f}",
         f"{numbers[f'{k}_ssim_gaussian']:.4f}"]
        for k, what in (("self", "self: G(x, c) with the labels x has"),
                        ("cycle", "cycle: there and back, single edits"))
    ]  # fmt: skip
    parts = [
        heading("Reconstruction (E3)"),
        table(["", "PSNR, dB", "SSIM 7×7 uniform", "SSIM Gaussian σ 1.5"], rows,
              "uint8 images, mean over the scored images; PSNR is cut at 100 dB"),
        heading("Distance from real images of the target domain (E4)"),
    ]  # fmt: skip
    far = details["domains"]
    known = {row["dataset"] for row in far}
    kinds = {f["name"]: f["kind"] for f in details["judge_facts"]["datasets"]}
    lacking = [
        d
        for d in dict.fromkeys(t["dataset"] for t in details["tasks"])
        if d not in known and kinds[d] != "continuous"  # intensities make no domains
    ]
    if lacking:
        few = f"{', '.join(lacking)}: too few test images for a Fréchet distance (8 a side)."
        parts.append(note(few, "warn"))
    if not far:
        return parts
    return [
        *parts,
        paragraph(
            "The VGG judge's distance is on the second judge's features, so comparable only under "
            "the same judge and number of images; it is not a FID. Real faces are held out; the "
            "floor is real against real at the same number, and the last is the distance from as "
            "many real faces that the model was trained on."
        ),
        _distances(far),
    ]


def _distances(far: Sequence[dict[str, Any]]) -> Markup:
    """Each domain's distances beside their floors; and the way of asking, where there are ways."""
    kinds = [k for k in FREE if k in far[0]]
    ways = ["way"] if "way" in far[0] else []
    columns = [*ways, "data", "domain"]
    headers = [*columns, *(h for k in kinds for h in (FREE[k], "its floor", "from train"))]
    rows = [
        [*(r[k] for k in (*ways, "dataset", "domain")),
         *(v for k in kinds for v in (r[k], r[f"{k}_floor"], r.get(f"{k}_train", "–"))),
         r["images"]]
        for r in far
    ]  # fmt: skip
    return table([*headers, "images a side"], rows)


def _diversity(details: dict[str, Any]) -> list[Markup]:
    """E5, and E4 over many styles, of a model that takes a latent or a reference."""
    rows = details["diversity"]
    if not rows:
        return []
    name = rows[0]["distance"]
    word = "LPIPS" if name == "lpips" else "distance of the second judge's features, no LPIPS"
    headers = ["style by", "data", "domain", "outputs apart", "from the input", "images"]
    cells = [
        [r["way"], r["dataset"], r["domain"], f"{r['apart']:.3f}", f"{r['from_input']:.3f}",
         r["images"]]
        for r in rows
    ]  # fmt: skip
    parts = [
        heading("Diversity (E5)"),
        paragraph(
            f"Of each input ten outputs (as many as the domain has references, where it has "
            f"fewer), the mean over their pairs: {word}. 0 would be one picture whatever the style."
        ),
        table(headers, cells),
    ]
    if details["styles"]:
        parts += [paragraph("Fréchet distances of all those outputs (E4):"),
                  _distances(details["styles"])]  # fmt: skip
    return parts


def _intensities(numbers: dict[str, float], details: dict[str, Any]) -> list[Markup]:
    """How far judged intensities are from those asked for, where labels are continuous."""
    rows = [
        [t["dataset"], t["task"], f"{t['error']:.3f}", f"{t['copy_error']:.3f}",
         f"{t['error_others']:.3f}"]
        for t in details["tasks"]
        if "error" in t
    ]  # fmt: skip
    if not rows:
        return []
    floors = [v for k, v in numbers.items() if k.startswith("judge_error")]
    low, high = numbers["error_low"], numbers["error_high"]
    return [
        heading("Intensities"),
        paragraph(
            f"Mean distance of the judged intensity (0 to 1) from the one asked for: "
            f"{numbers['error_mean']:.3f} [{low:.3f} – {high:.3f}]; of a copied input "
            f"{numbers['copy_error_mean']:.3f}; the judge's own error on real images "
            f"{', '.join(f'{v:.3f}' for v in floors)}."
        ),
        table(["data", "label", "error", "copied input", "others moved by"], rows),
    ]


def _masks(results: Sequence[dict[str, Any]]) -> list[Markup]:
    parts = []
    for m in results:
        word = "exceeds" if m["exceeds_chance"] else "does not exceed"
        parts.append(
            note(
                f"Expressions of {m['labels']} on {m['images']} faces of {m['faces']}: "
                f"{percent(m['proper'])} [{span(*m['proper_interval'])}] with the proper mask, "
                f"which {word} chance ({percent(m['chance'])}); {percent(m['wrong'])} "
                f"[{span(*m['wrong_interval'])}] with the wrong one.",
                "good" if m["exceeds_chance"] else "warn",
            )
        )
    return parts


def _compared(facts: dict[str, Any]) -> Markup:
    rows = [
        [name, percent(n["success_mean"]), span(n["success_low"], n["success_high"]),
         f"{n['identity_cosine']:.3f}", f"{n['self_psnr']:.2f}"]
        for name, n in facts["numbers"].items()
    ]  # fmt: skip
    headers = ["model", "success", "95 % interval", "identity", "self PSNR, dB"]
    return table(headers, rows, f"Two models on {facts['dataset']}")


def _sweep(rows: Sequence[dict[str, float]], own: float | None) -> list[Markup]:
    at = "at the model's own" if own is None else f"at {own:g}"
    if not rows:
        return []
    headers = ["intensity", "single edits succeed", "worst edit", "others preserved", "identity"]
    cells = [
        [f"{r['intensity']:g}", percent(r["success_mean"]), percent(r["success_worst"]),
         _share(r, "preservation_mean"), f"{r['identity_cosine']:.3f}"]
        for r in rows
    ]  # fmt: skip
    return [
        heading("Test intensity"),
        paragraph(
            "The factor on a label that changes; 1 is what training asks for, published numbers "
            f"may use more. Everything else on this page is {at}."
        ),
        table(headers, cells),
    ]


def _judges(details: dict[str, Any]) -> list[Markup]:
    facts = details["judge_facts"]
    rows = []
    weak = []
    for f in facts["datasets"]:
        for name, rate in f["labels"].items():
            rows.append([f["name"], name, percent(rate["accuracy"]), percent(rate["balanced"]),
                         percent(rate["share"])])  # fmt: skip
            if f["kind"] == "binary" and rate["balanced"] < 0.7:
                weak.append(f"{f['name']} {name}")
    summary = [
        [f["name"], percent(f["accuracy"]), percent(f["second_accuracy"]),
         "–" if f["verification_auc"] is None else f"{f['verification_auc']:.3f}",
         f["people"] if f["people"] > 1 else "not trained", f["train_images"], f["test_images"]]
        for f in facts["datasets"]
    ]  # fmt: skip
    parts = [
        heading("The judges"),
        paragraph(
            "A ResNet-18 decides success and preservation; a small VGG gives the Fréchet features "
            "and the identity cosine. Both were trained on the train split only, once for this "
            f"data version, with seed {facts['config']['seed']}; clean accuracy is the ceiling of "
            "success."
        ),
        table(["data", "clean accuracy", "VGG's", "telling people apart, AUC", "people trained on",
               "train images", "test images"], summary),
        table(["data", "label", "clean accuracy", "balanced", "share of images"], rows),
    ]  # fmt: skip
    if weak:
        text = f"The judge hardly knows {', '.join(weak)}: balanced accuracy under 70 %."
        parts.append(note(text, "warn"))
    return parts


def _alarms(signs: Sequence[dict[str, Any]]) -> list[Markup]:
    return [note(f"{s['name']} {s['value']:.3g}: {s['says']}", "bad") for s in signs if s["bad"]]


def _symptoms(signs: Sequence[dict[str, Any]]) -> list[Markup]:
    """Every watched way of going wrong beside its range, well or not."""
    if not signs:
        return []
    rows = [
        [s["name"], f"{s['value']:.3g}", f"{s['low']:g}", f"{s['high']:g}",
         s["says"] if s["bad"] else "well"]
        for s in signs
    ]  # fmt: skip
    return [
        heading("Symptoms"),
        paragraph(
            "Known ways of going wrong, on held-out images; balance is the lead of D over G (0: D "
            "cannot tell, 1: it is sure) where it was worst in training."
        ),
        table(["", "value", "at least", "at most", ""], rows),
    ]


def _training(took: dict[str, float]) -> list[Markup]:
    """What the training took, where its manifest tells."""
    shown = {
        "seconds": ("time", lambda v: f"{v / 60:.1f} min"),
        "images": ("images seen", lambda v: f"{v:,.0f}"),
        "images_per_second": ("images a second", lambda v: f"{v:.1f}"),
        "data_wait_share": ("waiting for data", percent),
        "checkpoint_seconds": ("standing still for checkpoints", lambda v: f"{v:.1f} s"),
        "memory_mib": ("memory of rank 0, peak", lambda v: f"{v:,.0f} MiB"),
        "gpu_memory_mib": ("GPU memory, peak", lambda v: f"{v:,.0f} MiB"),
        "gpu_utilisation": ("GPU busy", lambda v: f"{v:.0f} %"),
        "cost": ("cost at train.price_per_hour", lambda v: f"{v:.2f}"),
        "balance_least": ("D's lead over G, least", lambda v: f"{v:.3g}"),
        "balance_most": ("D's lead over G, most", lambda v: f"{v:.3g}"),
        "balance": ("D's lead over G, at the end", lambda v: f"{v:.3g}"),
    }
    rows = [[word, show(took[name])] for name, (word, show) in shown.items() if name in took]
    return [heading("Training"), table(["", ""], rows)] if rows else []


def scorecard(
    numbers: dict[str, float],
    details: dict[str, Any],
    pictures: Sequence[Figure],
    config: dict[str, Any],
) -> str:
    """HTML of an evaluation: flat metrics, details.json, the pictures, the model's config."""
    ceilings = {f["name"]: f["accuracy"] for f in details["judge_facts"]["datasets"]}
    shown = {"samples": "Held-out images", "fig7": "Proper and wrong mask (Fig. 7)",
             "worst": "Worst edits", "fig6": "Two models (Fig. 6)"}  # fmt: skip
    groups = {k: [p for p in pictures if p.name.startswith(k)] for k in shown}

    def gallery(kind: str) -> list[Markup]:
        images = [picture(p.png, p.caption) for p in groups[kind]]
        return [heading(shown[kind]), *images] if images else []

    cost: list[list[Any]] = [
        ["parameters of what translates", int(numbers["parameters"])],
        ["parameters with all networks of training", int(numbers["parameters_total"])],
        ["GMAC a translation", f"{numbers['gmac']:.3f}"],
        ["images a second, batch 1", f"{numbers['images_per_second_1']:.1f}"],
        ["images a second, batch 16", f"{numbers['images_per_second_16']:.1f}"],
    ]
    origin = [[k, details[k]] for k in ("identity", "split", "judge", "dataset", "model")]
    parts = [
        *_verdict(numbers, details),
        *_alarms(details["symptoms"]),
        *gallery("samples"),
        *_edits(details, ceilings),
        *_quality(numbers, details),
        *_intensities(numbers, details),
        *_diversity(details),
        *_sweep(details["sweep"], config.get("model", {}).get("test_int")),
        *_symptoms(details["symptoms"]),
        *gallery("fig7"),
        *_masks(details["masks"]),
        *gallery("fig6"),
        *([_compared(details["compare"])] if "compare" in details else []),
        *gallery("worst"),
        heading("Cost (E7)"),
        table(["", ""], cost, "fp32; the median of repeated calls on the machine that evaluated"),
        *_training(details["training"]),
        *_judges(details),
        heading("What was evaluated"),
        table(["", "sha256"], origin, "Scores compare only where the first of these is the same"),
    ]
    name, preset = config.get("name", "model"), config.get("preset", "")
    return page(
        f"Evaluation of {name} {preset}".strip(), parts, "on held-out images, by a frozen judge"
    )
