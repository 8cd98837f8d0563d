"""In which precision matrix products are computed. Not here: what is summed in float32 all the same (losses.py), how
a coarse ranking is made exact (ranking.py).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

_CPUINFO = Path("/proc/cpuinfo")


@cache
def cpu_name() -> str | None:
    """Maker and model of the CPU as Linux gives them, None elsewhere."""
    if not _CPUINFO.exists():
        return None
    found = dict(line.split("\t:", 1) for line in _CPUINFO.read_text().split("\n\n")[0].splitlines() if "\t:" in line)
    words = (value.strip() for key, value in found.items() if key.strip() in ("vendor_id", "model name"))
    return " ".join(words) or None


def bf16_is_fast(device: torch.device) -> bool:
    """Whether bf16 beats float32: on CUDA, on CPUs with matrix units for it (AMX), and on AMD's with AVX-512 for it
    (tried on one, a Zen 4). On the one other CPU without matrix units that was tried float32 was faster."""
    if device.type == "cuda":
        return True
    amd = "AuthenticAMD" in (cpu_name() or "") and torch.cpu._is_avx512_bf16_supported()
    return device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or amd)


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """What to compute matrix products in, by the config's `precision`; None: float32. 'auto': bf16 where fast."""
    if precision == "auto":
        return torch.bfloat16 if bf16_is_fast(device) else None
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}[precision]
