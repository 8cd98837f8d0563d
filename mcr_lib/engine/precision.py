"""In which precision matrix products are computed. Not here: what is summed in float32 all the same (losses.py)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from data_prep.machine import cpu_name


def bf16_is_fast(device: torch.device) -> bool:
    """Whether bf16 beats float32. On CUDA where it is not emulated, on CPUs with matrix units for
    it (AMX), and on AMD's with AVX-512 for it (tried on one, a Zen 4; on another CPU without matrix
    units float32 was faster)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    amd = "AuthenticAMD" in (cpu_name() or "") and torch.cpu._is_avx512_bf16_supported()
    return device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or amd)


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """What to compute matrix products in, by the config's `precision`; None: float32. 'auto' is
    bf16 where that is fast; else fp16 on CUDA, float32 on a CPU."""
    if precision == "auto":
        otherwise = "fp16" if device.type == "cuda" else "fp32"
        precision = "bf16" if bf16_is_fast(device) else otherwise
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}[precision]


def precision_name(dtype: torch.dtype | None) -> str:
    """What `autocast_dtype` gave, as results name it: 'bfloat16', 'float16', 'float32'."""
    return str(dtype or torch.float32).removeprefix("torch.")


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Compute products of float32 in float32, whatever the caller allows: TF32, autocast."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
