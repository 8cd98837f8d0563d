"""A study's arms over their seeds, from study.json: recall, mask rates, and the paper's Figs. 3 and 4. Not here: which
pictures a study allows, and their files (figures.py).
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from benchmarks.study.plateau import plateau_begins
from kit.plotting.style import COLOURS, OKABE_ITO, Picture, new_picture
from kit.plotting.training import ARMS as FRAMEWORK_NAMES
from kit.plotting.training import MARKERS, line_of, recall_over_cost

METHOD_LOOKS = {  # other people's methods: colour, mark, name
    "siglip": (OKABE_ITO["blue"], "v", "SigLIP"),
    "no-false-negatives": (OKABE_ITO["vermillion"], "P", "no false negatives"),
    "gloria": (OKABE_ITO["black"], "*", "GLoRIA, ranked by wholes"),
    "maco": ("#8C7A00", "X", "MaCo-like"),
}
GAPS = {
    "gap_distance": "gap (0–2)",
    "relative_modality_gap": "relative gap",
    "alignment": "distance of\ntrue pairs²",
    "uniformity": "uniformity",
    "true_pair_cosine": "cosine of\ntrue pairs",
}
STAGES = ("start", "middle", "end")


def look_of(name: str, arm: dict) -> tuple[str, str, str]:
    """Colour, mark and name of an arm of study.json: of its method, else of its framework."""
    framework = arm["settings"]["framework"]
    of_framework = (COLOURS[framework], MARKERS[framework], FRAMEWORK_NAMES[framework])
    return METHOD_LOOKS.get(name.partition("@")[0], of_framework)


# ------------------------------------------------------------------------------------------------ every run's recall


def study_spread(arms: dict, chance: float) -> Picture:
    """Every run of a study, not only means: a row per arm, a mark per seed, a bar at the mean.

    arms: those of study.json; RSum of whole test input, beside the same of masked input (hollow).
    """
    names = list(arms)
    means = [f"{n} {np.mean(arms[n]['metrics']['test, unmasked']['rsum']):.0f}" for n in names]
    picture, axes = new_picture(
        0.34 * len(names) + 1.3, alt="rsum of every seed of the arms; means: " + ", ".join(means)
    )
    ax = axes[0, 0]
    for y, name in enumerate(names):
        _draw_seeds(ax, y, arms[name])
    dashes = (0, (5, 3))
    ax.axvline(chance, color=COLOURS["chance"], linestyle=dashes, linewidth=1.3, label="chance")
    ax.set(
        yticks=range(len(names)),
        yticklabels=names,
        ylim=(len(names) - 0.4, -0.6),
        xlabel="RSum on the test split (six recalls added, 0–600); a mark per seed, a bar at the mean",
    )
    ax.grid(axis="y", visible=False)
    picture.legend(*ax.get_legend_handles_labels(), loc="outside upper right", ncols=3)
    return picture


def _draw_seeds(ax: Axes, y: int, arm: dict) -> None:
    """One arm's row; the first one names its marks for the legend."""
    colour = COLOURS.get(arm["settings"]["framework"], COLOURS["chance"])
    marker = "o" if arm["settings"]["alignment"] == "mba" else "s"
    for where, fill, label in (
        ("test, unmasked", colour, "whole input"),
        ("test, masked", "none", "masked input"),
    ):
        values = arm["metrics"][where]["rsum"]
        ax.plot(
            values,
            np.full(len(values), y),
            marker,
            color=colour,
            markerfacecolor=fill,
            markersize=6,
            alpha=0.85,
            label=label if y == 0 else None,
        )
        ax.plot(
            [np.mean(values)] * 2,
            [y - 0.32, y + 0.32],
            color=colour,
            linewidth=2.2,
            linestyle="-" if fill != "none" else (0, (1, 1)),
        )


# ------------------------------------------------------------------------------------------------- recall for its cost


def recall_for_cost(arms: dict, curves: dict, levels: dict[str, float]) -> Picture:
    """RSum on `validate` against the operations spent so far, with a ring where an arm's plateau begins (plateau.py).

    arms: of study.json; curves: of found.learning_curves; levels: name → RSum of what needs no training. A rate that
    falls to its end makes a point on the way worse than a whole training of that length would be.
    """
    looks, still = {}, {}
    for name in curves:
        colour, marker, _ = look_of(name, arms[name])
        looks[name] = line_of(arms[name]["settings"]) | {"color": colour, "marker": marker}
        begins = plateau_begins(arms[name]["validated"])
        if begins is not None:
            still[name] = begins
    return recall_over_cost(curves, looks, levels, still)


# -------------------------------------------------------------------------------------------------------- mask rates


def mask_rates(panels: dict[str, list[dict]]) -> Picture:
    """What each pair of mask rates gives on whole test input: the mean RSum over seeds in each field, its range below.

    panels: title → arms, those of study.json that are of the groups `mask` and `mask@time`; one scale of colours.
    """
    arms = [arm for panel in panels.values() for arm in panel]
    images = sorted({arm["settings"]["mask_ratio"] for arm in arms})
    texts = sorted({arm["settings"]["mlm_probability"] for arm in arms})
    fields = {title: _rsums_by_rates(panel) for title, panel in panels.items()}
    means = [np.mean(arm["metrics"]["test, unmasked"]["rsum"]) for arm in arms]
    words = "; ".join(f"{title}: {_name_means(rsums)}" for title, rsums in fields.items())
    picture, axes = new_picture(
        (0.85 * len(texts) + 0.9) * len(panels) + 0.4,
        len(panels),
        sharex=True,
        alt=f"mean rsum by share of the image and of the report that is masked, {words}",
    )
    scale = (min(means), max(means))
    for ax, (title, rsums) in zip(axes[:, 0], fields.items(), strict=True):
        shown = _draw_rates(ax, rsums, images, texts, scale)
        ax.set_title(title)
    ax.set_xlabel("patches of the image removed; bold: the paper’s rates")
    picture.colorbar(shown, ax=axes[:, 0].tolist(), label="RSum (0–600), mean over seeds")
    return picture


def _rsums_by_rates(arms: list[dict]) -> dict[tuple[float, float], list[float]]:
    """(rate of the image, rate of the report) → RSum of every seed."""
    rsums = {}
    for arm in arms:
        rates = (arm["settings"]["mask_ratio"], arm["settings"]["mlm_probability"])
        rsums[rates] = arm["metrics"]["test, unmasked"]["rsum"]
    return rsums


def _name_means(rsums: dict) -> str:
    means = [f"{i:.0%}/{t:.0%} {np.mean(values):.0f}" for (i, t), values in rsums.items()]
    return ", ".join(means)


def _draw_rates(ax: Axes, rsums: dict, images: list, texts: list, scale: tuple[float, float]):
    """One panel: a field per pair of rates, those that were not run empty → what a colour bar is made for."""
    grid = np.full((len(texts), len(images)), np.nan)
    for (image, text), values in rsums.items():
        grid[texts.index(text), images.index(image)] = np.mean(values)
    shown = ax.imshow(grid, cmap="cividis", aspect="auto", vmin=scale[0], vmax=scale[1])
    for (image, text), values in rsums.items():
        is_dark = np.mean(values) < sum(scale) / 2
        ax.text(
            images.index(image),
            texts.index(text),
            f"{np.mean(values):.0f}\n{min(values):.0f}–{max(values):.0f}",
            ha="center",
            va="center",
            color="#FFFFFF" if is_dark else COLOURS["ink"],
            weight="bold" if (image, text) == (0.5, 0.25) else "normal",
        )
    ax.set(
        xticks=range(len(images)),
        xticklabels=[f"{rate:.0%}" for rate in images],
        yticks=range(len(texts)),
        yticklabels=[f"{rate:.0%}" for rate in texts],
        ylabel="words of the report masked",
    )
    ax.grid(False)
    return shown


# ------------------------------------------------------------------------------------------------------------ Fig. 3


def retrieved_scores(arms: dict) -> Picture:
    """The paper's Fig. 3: the scores of what is retrieved against K, a colour and mark per framework, dashed for
    image→report and solid for report→image as in its caption; means over seeds, in a band of one standard deviation.

    arms: one per framework or method, of study.json.
    """
    metrics = list(next(iter(arms.values()))["nlg"]["image_to_text"])
    alt = f"{', '.join(metrics)} of the first K reports retrieved by " + ", ".join(arms)
    picture, axes = new_picture(5.6, 2, 2, sharex=True, alt=alt)
    for ax, metric in zip(axes.flat, metrics, strict=True):
        for name, arm in arms.items():
            _draw_curves(ax, arm, metric, look_of(name, arm))
        if not ax.lines:
            missing = "needs Java, which was not there"
            ax.text(0.5, 0.5, missing, ha="center", transform=ax.transAxes)
        ax.set(title=metric, xticks=range(1, 11))
    for ax in axes[1]:
        ax.set_xlabel("K: the first K reports retrieved")
    drawn = next(ax for ax in axes.flat if ax.lines)
    handles, labels = drawn.get_legend_handles_labels()
    for style, label in (("--", "image → report"), ("-", "report → image")):
        handles.append(axes[0, 0].plot([], [], style, color=COLOURS["ink"])[0])
        labels.append(label)
    picture.legend(handles, labels, loc="outside upper center", ncols=3)
    return picture


def _draw_curves(ax: Axes, arm: dict, metric: str, look: tuple[str, str, str]) -> None:
    """Both directions of one arm, with their bands; nothing where they were not measured."""
    colour, marker, label = look
    for way, style in (("image_to_text", "--"), ("text_to_image", "-")):
        curve = arm["nlg"][way][metric]
        if curve is None:
            continue
        depths = range(1, len(curve) + 1)
        ax.plot(
            depths,
            curve,
            style,
            marker=marker,
            markersize=4,
            linewidth=1.6,
            color=colour,
            label=label if way == "text_to_image" else None,
        )
        if arm.get("nlg_sd"):
            deviation = np.array(arm["nlg_sd"][way][metric])
            low, high = curve - deviation, curve + deviation
            ax.fill_between(depths, low, high, color=colour, alpha=0.12, linewidth=0)


# ------------------------------------------------------------------------------------------------------------ Fig. 4


def gap_stages(arms: dict) -> Picture:
    """The measures of Fig. 4 before, during and after training on the validation split: a line per seed, mapped first
    (solid, dots) or aggregated first (dashed, squares). arms: those of study.json that are shown."""
    stages = [stage for stage in STAGES if all(stage in arm["gap"] for arm in arms.values())]
    alt = "Gap measures at the start, middle and end of training: " + ", ".join(arms)
    picture, axes = new_picture(2.9, 1, len(GAPS), alt=alt)
    for ax, (measure, title) in zip(axes[0], GAPS.items(), strict=True):
        for name, arm in arms.items():
            order = arm["settings"]["alignment"]
            lines = np.array([arm["gap"][stage][measure] for stage in stages])  # stages, seeds
            drawn = ax.plot(
                range(len(stages)),
                lines,
                "o-" if order == "mba" else "s--",
                color=COLOURS[order],
                linewidth=1.2,
                markersize=4,
                alpha=0.8,
            )
            drawn[0].set_label(name)
        ax.set_title(title, fontsize=9.5)
        ax.set_xticks(range(len(stages)), stages)
        ax.tick_params(labelsize=8.5)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    picture.legend(handles, labels, loc="outside lower center", ncols=len(arms))
    return picture
