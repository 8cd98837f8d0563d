"""What the numbers of a benchmark say: ratios with their spread, each target beside what was measured, Markdown tables.
Pure functions of result files. Not here: measuring (steps.py, loading.py).
"""

from __future__ import annotations

import statistics

# the paper-scale run that is projected from measured throughput
MIMIC_PAIRS, MIMIC_EPOCHS = 368_960, 50
OPENI = "reports of Open-i's lengths"
TARGET_HEAD = "| what | target | measured | |"
STEP_HEAD = "| step | pairs | tokens | s, median (range) | pairs/s | GFLOP | floor, s | × floor | peak, GB |"


# -------------------------------------------------------------------------------------------------------- comparisons


def compute_ratios(result: dict) -> dict[str, dict]:
    """Comparisons at the largest batch size: `value`; for times the median of each round's ratio, `low` and `high`
    its range over rounds. A peer that was not installed is left out."""
    rows = _rows_of_largest_batch(result)
    mcr, two_stream = rows["mcr"], rows["two-stream"]
    ratios = {
        "two-stream / mcr, time": _divide_times(two_stream, mcr),
        f"two-stream / mcr, time, {OPENI}": _divide_times(
            rows["two-stream, openi"], rows["mcr, openi"]
        ),
        "two-stream / mcr, FLOPs": {"value": two_stream["flops"] / mcr["flops"]},
        "mcr / two-stream, memory": {"value": mcr["peak_bytes"] / two_stream["peak_bytes"]},
        "plain mcr / mcr, time": _divide_times(rows["plain mcr"], mcr),
        "plain two-stream / mcr, time": _divide_times(rows["plain two-stream"], mcr),
    }
    for name in ("open_clip", "open_clip, patch dropout 0.5"):
        if name in rows:
            peer = rows[name]
            ratios |= {
                f"mcr / {name}, time": _divide_times(mcr, peer),
                f"mcr / {name}, time, {OPENI}": _divide_times(rows["mcr, openi"], peer),
                f"mcr / {name}, memory": {"value": mcr["peak_bytes"] / peer["peak_bytes"]},
            }
    return ratios


def _divide_times(a: dict, b: dict) -> dict:
    """Round by round, as they took turns."""
    each = [x / y for x, y in zip(a["seconds"], b["seconds"], strict=True)]
    return {"value": statistics.median(each), "low": min(each), "high": max(each)}


def _rows_of_largest_batch(result: dict) -> dict[str, dict]:
    """By name; 'mcr, openi' are those with short reports."""
    largest = max(row["batch_size"] for row in result["steps"])
    rows = {}
    for row in result["steps"]:
        if row["batch_size"] == largest:
            kind = "" if row["lengths"] == "full" else f", {row['lengths']}"
            rows[row["name"] + kind] = row
    return rows


# ------------------------------------------------------------------------------------------------------------ targets


def check_targets(result: dict) -> list[dict]:
    """Each target with the measured value, whether it is met, and by which factor it is missed (1 or less: met).

    measured None: this machine or installation cannot measure it; `why` says so.
    """
    return [*_check_comparisons(result), *_check_step(result), *_check_loading(result["data"])]


def _check_comparisons(result: dict) -> list[dict]:
    ratios = compute_ratios(result)
    time, memory = ratios["two-stream / mcr, time"], ratios["mcr / two-stream, memory"]
    targets = [
        _check("two-stream / MCR, time per step", "≥", 2.1, time["value"]),
        _check(
            "MCR / two-stream, peak memory above weights and optimizer", "≤", 0.5, memory["value"]
        ),
    ]
    for name, limit in (("open_clip", 0.75), ("open_clip, patch dropout 0.5", 1.2)):
        for lengths in ("", f", {OPENI}"):
            ratio = ratios.get(f"mcr / {name}, time{lengths}", {}).get("value")
            why = "open_clip is not installed: make benchmark"
            targets.append(_check(f"MCR / {name}, time{lengths}", "≤", limit, ratio, why))
    return targets


def _check_step(result: dict) -> list[dict]:
    mcr, on_gpu = _rows_of_largest_batch(result)["mcr"], result["device"].startswith("cuda")
    hours = MIMIC_PAIRS * MIMIC_EPOCHS / mcr["pairs_per_second"] / 3600
    return [
        _check(
            f"step time / floor, {mcr['precision']}",
            "≤",
            1.5,
            None if on_gpu else mcr["over_floor"],
            "measured on a CPU",
        ),
        _check(
            "model FLOPs utilisation, one GPU, bf16",
            "≥",
            0.55,
            mcr.get("utilisation"),
            "needs CUDA",
        ),
        _check(
            f"projection: MIMIC-CXR, {MIMIC_PAIRS:,} pairs × {MIMIC_EPOCHS} epochs, hours on one GPU",
            "≤",
            2.0,
            hours if on_gpu else None,
            "needs CUDA",
        ),
    ]


def _check_loading(data: dict) -> list[dict]:
    waiting, reading, growth = data["waiting"], data["reading"], data["growth"]
    microseconds = [row["batch_us"] + row["order_us"] for row in growth]
    return [
        _check(
            f"time waiting for data, share of the {waiting['profile']} step",
            "≤",
            0.02,
            waiting["share"],
        ),
        _check(
            "packed store to device batch / decoding JPEGs of MIMIC-CXR's size, pairs per second",
            "≥",
            10.0,
            reading["ratio_full"],
        ),
        _check(
            "packed store to device batch / decoding data_prep's JPEGs (short side 512), pairs per second",
            "≥",
            10.0,
            reading["ratio"],
        ),
        _check(
            "import mcr_lib beyond torch, seconds", "≤", 1.0, data["start_up"]["mcr_lib_seconds"]
        ),
        _check(
            f"cost growth: dearest time per pair up to {growth[-1]['pairs']:,} pairs / that of "
            f"{growth[0]['pairs']:,}",
            "≤",
            1.2,
            max(microseconds) / microseconds[0],
        ),
    ]


def _check(what: str, sign: str, limit: float, measured: float | None, why: str = "") -> dict:
    """One target; `why` it was not measured, where it was not."""
    target = {"what": what, "target": f"{sign} {limit:g}", "measured": measured}
    if measured is None:
        return target | {"met": None, "why": why}
    missed = measured / limit if sign == "≤" else limit / measured
    return target | {"met": missed <= 1, "missed_by_factor": missed}


# ----------------------------------------------------------------------------------------------------------- Markdown


def format_result(result: dict) -> str:
    """The targets, then every step measured: two Markdown tables and a line that says where they are from."""
    hardware = result["hardware"]
    where = hardware["gpu"] or f"{hardware['cpus']} CPU cores"
    origin = (
        f"{result['profile']}, {where}, {result['time'][:10]}, "
        f"commit {result['commit']}: `{result['command']}`"
    )
    targets = _format_table(TARGET_HEAD, [_target_cells(target) for target in result["targets"]])
    steps = _format_table(STEP_HEAD, [_step_cells(row) for row in result["steps"]])
    return "\n\n".join([origin, targets, steps])


def _target_cells(target: dict) -> tuple[str, ...]:
    measured = "–" if target["measured"] is None else f"{target['measured']:.3g}"
    if target["met"] is None:
        verdict = target["why"]
    elif target["met"]:
        verdict = "met"
    else:
        verdict = f"missed by a factor of {target['missed_by_factor']:.2f}"
    return target["what"], target["target"], measured, verdict


def _step_cells(row: dict) -> tuple[str, ...]:
    return (
        row["name"],
        str(row["batch_size"]),
        str(row["tokens"]),
        f"{row['median']:.3g} ({min(row['seconds']):.3g}–{max(row['seconds']):.3g})",
        f"{row['pairs_per_second']:.3g}",
        f"{row['flops'] / 1e9:.0f}",
        f"{row['floor_seconds']:.3g}",
        f"{row['over_floor']:.2f}",
        f"{row['peak_bytes'] / 1e9:.2f}" if "peak_bytes" in row else "",
    )


def _format_table(head: str, lines: list[tuple[str, ...]]) -> str:
    rule = "|" + "---|" * (head.count("|") - 1)
    body = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([head, rule, *body])
