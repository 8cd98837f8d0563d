"""A study's arms over their seeds, from study.json: recall, mask rates, and the paper's Figs. 3 and 4."""

from __future__ import annotations

import numpy as np

from .style import COLOURS, Picture, new_picture
from .training import ARMS

LINES = {"mcr": "o", "two-stream": "s", "contrastive": "D", "contrastive-masked": "^"}  # a marker for each framework


def study_spread(arms: dict, chance: float, measure: str = "rsum") -> Picture:
    """Every run of a study, not only means: a row per arm, a mark per seed, a bar at the mean. arms: those of
    study.json; `measure`: of whole test input, beside the same of masked input (hollow)."""
    names = list(arms)
    means = [f"{n} {np.mean(arms[n]['metrics']['test, unmasked'][measure]):.0f}" for n in names]
    picture, axes = new_picture(0.34 * len(names) + 1.3, alt=f"{measure} of every seed of the arms; means: "
                                + ", ".join(means))
    ax = axes[0, 0]
    for y, name in enumerate(names):
        colour = COLOURS.get(arms[name]["settings"]["framework"], COLOURS["chance"])
        marker = "o" if arms[name]["settings"]["alignment"] == "mba" else "s"
        for where, fill, label in (("test, unmasked", colour, "whole input"), ("test, masked", "none", "masked input")):
            values = arms[name]["metrics"][where][measure]
            ax.plot(values, np.full(len(values), y), marker, color=colour, markerfacecolor=fill, markersize=6,
                    alpha=0.85, label=label if y == 0 else None)
            ax.plot([np.mean(values)] * 2, [y - 0.32, y + 0.32], color=colour, linewidth=2.2,
                    linestyle="-" if fill != "none" else (0, (1, 1)))
    ax.axvline(chance, color=COLOURS["chance"], linestyle=(0, (5, 3)), linewidth=1.3, label="chance")
    ax.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.4, -0.6),
           xlabel="RSum on the test split (six recalls added, 0–600); a mark per seed, a bar at the mean")
    ax.grid(axis="y", visible=False)
    picture.legend(*ax.get_legend_handles_labels(), loc="outside upper right", ncols=3)
    return picture


def mask_rates(panels: dict[str, list[dict]], measure: str = "rsum") -> Picture:
    """What each pair of mask rates gives on whole test input: the mean over seeds in each field, its range below.
    panels: title → arms, those of study.json that are of the groups `mask` and `mask@time`; one scale of colours."""
    images, texts = (sorted({arm["settings"][key] for arms in panels.values() for arm in arms})
                     for key in ("mask_ratio", "mlm_probability"))
    found = {title: {(arm["settings"]["mlm_probability"], arm["settings"]["mask_ratio"]):
                     arm["metrics"]["test, unmasked"][measure] for arm in arms} for title, arms in panels.items()}
    means = [np.mean(values) for fields in found.values() for values in fields.values()]
    words = "; ".join(f"{title}: " + ", ".join(f"{i:.0%}/{t:.0%} {np.mean(v):.0f}" for (t, i), v in fields.items())
                      for title, fields in found.items())
    picture, axes = new_picture((0.85 * len(texts) + 0.9) * len(panels) + 0.4, len(panels), sharex=True, alt=f"mean "
                                f"{measure} by share of the image and of the report that is masked, {words}")
    for ax, (title, fields) in zip(axes[:, 0], found.items(), strict=True):
        grid = np.array([[np.mean(fields.get((text, image), np.nan)) for image in images] for text in texts])
        shown = ax.imshow(grid, cmap="cividis", aspect="auto", vmin=min(means), vmax=max(means))
        for (text, image), values in fields.items():
            mean, light = np.mean(values), np.mean(values) < (min(means) + max(means)) / 2
            ax.text(images.index(image), texts.index(text), f"{mean:.0f}\n{min(values):.0f}–{max(values):.0f}",
                    ha="center", va="center", color="#FFFFFF" if light else COLOURS["ink"],
                    weight="bold" if (text, image) == (0.25, 0.5) else "normal")
        ax.set(xticks=range(len(images)), xticklabels=[f"{rate:.0%}" for rate in images], yticks=range(len(texts)),
               yticklabels=[f"{rate:.0%}" for rate in texts], ylabel="words of the report masked", title=title)
        ax.grid(False)
    ax.set_xlabel("patches of the image removed; bold: the paper’s rates")
    picture.colorbar(shown, ax=axes[:, 0].tolist(), label="RSum (0–600), mean over seeds")
    return picture


def retrieved_scores(arms: dict) -> Picture:
    """The paper's Fig. 3: the scores of what is retrieved against K, a colour and mark per framework, dashed for
    image→report and solid for report→image as in its caption; means over seeds, in a band of one standard deviation.
    arms: one per framework, of study.json."""
    metrics = list(next(iter(arms.values()))["nlg"]["image_to_text"])
    picture, axes = new_picture(5.6, 2, 2, sharex=True, alt=f"{', '.join(metrics)} of the first K reports retrieved by "
                                + ", ".join(arms))
    for ax, metric in zip(axes.flat, metrics, strict=True):
        for arm in arms.values():
            framework = arm["settings"]["framework"]
            for way, style in (("image_to_text", "--"), ("text_to_image", "-")):
                curve = arm["nlg"][way][metric]
                if curve is None:
                    continue
                ax.plot(range(1, len(curve) + 1), curve, style, marker=LINES[framework], markersize=4, linewidth=1.6,
                        color=COLOURS[framework], label=ARMS[framework] if way == "text_to_image" else None)
                if arm.get("nlg_sd"):
                    spread = np.array(arm["nlg_sd"][way][metric])
                    ax.fill_between(range(1, len(curve) + 1), curve - spread, curve + spread, color=COLOURS[framework],
                                    alpha=0.12, linewidth=0)
        if not ax.lines:
            ax.text(0.5, 0.5, "needs Java, which was not there", ha="center", transform=ax.transAxes)
        ax.set(title=metric, xticks=range(1, 11))
    for ax in axes[1]:
        ax.set_xlabel("K: the first K reports retrieved")
    handles, labels = next(ax for ax in axes.flat if ax.lines).get_legend_handles_labels()
    for style, label in (("--", "image → report"), ("-", "report → image")):
        handles.append(axes[0, 0].plot([], [], style, color=COLOURS["ink"])[0])
        labels.append(label)
    picture.legend(handles, labels, loc="outside upper center", ncols=3)
    return picture


GAPS = {"gap_distance": "gap (0–2)", "relative_modality_gap": "relative gap", "alignment": "distance of\ntrue pairs²",
        "uniformity": "uniformity", "true_pair_cosine": "cosine of\ntrue pairs"}


def gap_stages(arms: dict, names: list[str]) -> Picture:
    """The measures of Fig. 4 before, during and after training on the validation split: a line per seed, mapped first
    (solid, dots) or aggregated first (dashed, squares). arms: those of study.json, of which `names` are shown."""
    stages = [stage for stage in ("start", "middle", "end") if all(stage in arms[name]["gap"] for name in names)]
    picture, axes = new_picture(2.9, 1, len(GAPS), alt="Gap measures at the start, middle and end of training: "
                                + ", ".join(names))
    for ax, (key, title) in zip(axes[0], GAPS.items(), strict=True):
        for name in names:
            order = arms[name]["settings"]["alignment"]
            lines = np.array([arms[name]["gap"][stage][key] for stage in stages])  # stages, seeds
            drawn = ax.plot(range(len(stages)), lines, "o-" if order == "mba" else "s--", color=COLOURS[order],
                            linewidth=1.2, markersize=4, alpha=0.8)
            drawn[0].set_label(name)
        ax.set_title(title, fontsize=9.5)
        ax.set_xticks(range(len(stages)), stages)
        ax.tick_params(labelsize=8.5)
    picture.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(names))
    return picture
