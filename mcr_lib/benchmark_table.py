"""What the numbers of a benchmark say: ratios with their spread, each target beside what was measured, Markdown tables.
Pure functions of result files. Not here: measuring (benchmark.py, benchmark_data.py).
"""

from __future__ import annotations

import statistics

MIMIC_PAIRS, MIMIC_EPOCHS = 368_960, 50  # the paper-scale run that is projected from measured throughput


def ratios(result: dict) -> dict[str, dict]:
    """Comparisons at the largest batch size: `value`; for times the median of each round's ratio, `low` and `high`
    its range over rounds. A peer that was not installed is left out."""
    rows = _last(result)

    def times(a: str, b: str) -> dict:
        each = [x / y for x, y in zip(rows[a]["seconds"], rows[b]["seconds"], strict=True)]
        return {"value": statistics.median(each), "low": min(each), "high": max(each)}

    mcr, two = rows["mcr"], rows["two-stream"]
    found = {
        "two-stream / mcr, time": times("two-stream", "mcr"),
        "two-stream / mcr, time, reports of Open-i's lengths": times("two-stream, openi", "mcr, openi"),
        "two-stream / mcr, FLOPs": {"value": two["flops"] / mcr["flops"]},
        "mcr / two-stream, memory": {"value": mcr["peak_bytes"] / two["peak_bytes"]},
        "plain mcr / mcr, time": times("plain mcr", "mcr"),
        "plain two-stream / mcr, time": times("plain two-stream", "mcr"),
    }
    for peer in ("open_clip", "open_clip, patch dropout 0.5"):
        if peer in rows:
            found[f"mcr / {peer}, time"] = times("mcr", peer)
            found[f"mcr / {peer}, time, reports of Open-i's lengths"] = times("mcr, openi", peer)
            found[f"mcr / {peer}, memory"] = {"value": mcr["peak_bytes"] / rows[peer]["peak_bytes"]}
    return found


def targets(result: dict) -> list[dict]:
    """Each target with the measured value, whether it is met, and by which factor it is missed (1 or less: met).

    measured None: this machine or installation cannot measure it; `why` says so.
    """
    found, mcr, data = ratios(result), _last(result)["mcr"], result["data"]
    cuda = result["device"].startswith("cuda")
    batch_us = [row["batch_us"] + row["order_us"] for row in data["growth"]]
    hours = MIMIC_PAIRS * MIMIC_EPOCHS / mcr["pairs_per_second"] / 3600
    peers, gpu = "open_clip is not installed: make benchmark", "needs CUDA"
    rows = [
        ("two-stream / MCR, time per step", "≥", 2.1, found["two-stream / mcr, time"]["value"], ""),
        ("MCR / two-stream, peak memory above weights and optimizer", "≤", 0.5,
         found["mcr / two-stream, memory"]["value"], "")]
    for peer, limit in (("open_clip", 0.75), ("open_clip, patch dropout 0.5", 1.2)):
        for lengths in ("", ", reports of Open-i's lengths"):
            rows.append((f"MCR / {peer}, time{lengths}", "≤", limit,
                         found.get(f"mcr / {peer}, time{lengths}", {}).get("value"), peers))
    rows += [
        (f"step time / floor, {mcr['precision']}", "≤", 1.5, None if cuda else mcr["over_floor"], "measured on a CPU"),
        ("model FLOPs utilisation, one GPU, bf16", "≥", 0.55, mcr.get("utilisation"), gpu),
        (f"projection: MIMIC-CXR, {MIMIC_PAIRS:,} pairs × {MIMIC_EPOCHS} epochs, hours on one GPU", "≤", 2.0,
         hours if cuda else None, gpu),
        (f"time waiting for data, share of the {data['waiting']['profile']} step", "≤", 0.02,
         data["waiting"]["share"], ""),
        ("packed store to device batch / decoding JPEGs of MIMIC-CXR's size, pairs per second", "≥", 10.0,
         data["reading"]["ratio_full"], ""),
        ("packed store to device batch / decoding data_prep's JPEGs (short side 512), pairs per second", "≥", 10.0,
         data["reading"]["ratio"], ""),
        ("import mcr_lib beyond torch, seconds", "≤", 1.0, data["start_up"]["mcr_lib_seconds"], ""),
        (f"cost growth: dearest time per pair up to {data['growth'][-1]['pairs']:,} pairs / that of "
         f"{data['growth'][0]['pairs']:,}", "≤", 1.2, max(batch_us) / batch_us[0], ""),
    ]
    return [_target(*row) for row in rows]


def _target(what: str, sign: str, limit: float, measured: float | None, why: str) -> dict:
    row = {"what": what, "target": f"{sign} {limit:g}", "measured": measured}
    if measured is None:
        return row | {"met": None, "why": why}
    missed = measured / limit if sign == "≤" else limit / measured
    return row | {"met": missed <= 1, "missed_by_factor": missed}


def markdown(result: dict) -> str:
    """The targets, then every step measured: two Markdown tables and a line that says where they are from."""
    hardware = result["hardware"]
    lines = [f"{result['profile']}, {hardware['gpu'] or str(hardware['cpus']) + ' CPU cores'}, {result['time'][:10]}, "
             f"commit {result['commit']}: `{result['command']}`", "",
             "| what | target | measured | |", "|---|---|---|---|"]
    for row in result["targets"]:
        measured, verdict = f"{row['measured']:.3g}" if row["measured"] is not None else "–", row.get("why")
        if row["met"] is not None:
            verdict = "met" if row["met"] else f"missed by a factor of {row['missed_by_factor']:.2f}"
        lines.append(f"| {row['what']} | {row['target']} | {measured} | {verdict} |")
    lines += ["", "| step | pairs | tokens | s, median (range) | pairs/s | GFLOP | floor, s | × floor | peak, GB |",
              "|---|---|---|---|---|---|---|---|---|"]
    for row in result["steps"]:
        peak = f"{row['peak_bytes'] / 1e9:.2f}" if "peak_bytes" in row else ""
        lines.append(f"| {row['name']} | {row['batch_size']} | {row['tokens']} | {row['median']:.3g} "
                     f"({min(row['seconds']):.3g}–{max(row['seconds']):.3g}) | {row['pairs_per_second']:.3g} | "
                     f"{row['flops'] / 1e9:.0f} | {row['floor_seconds']:.3g} | {row['over_floor']:.2f} | {peak} |")
    return "\n".join(lines)


def _last(result: dict) -> dict[str, dict]:
    """The rows of the largest batch size by name; 'mcr, openi' are those with short reports."""
    last = max(row["batch_size"] for row in result["steps"])
    return {row["name"] + ("" if row["lengths"] == "full" else f", {row['lengths']}"): row
            for row in result["steps"] if row["batch_size"] == last}
