"""Where a result came from: code, versions, machine, data, memory. Not here: what is written with it."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
import time
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

from data_prep.machine import cores, cpu_name

PACKAGES = ("torch", "torchvision", "timm", "transformers", "tokenizers", "numpy")


@cache
def commit() -> str | None:
    """The commit this code is of, `-dirty` if it differs; None outside git. As it was at the first
    call: what a process has loaded stays what it was when the checkout moves on."""
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    here = Path(__file__).parent
    git = subprocess.run(describe, cwd=here, capture_output=True, text=True)
    return git.stdout.strip() or None


def provenance(command: str | None = None) -> dict:
    """What a result file says of its origin: command, commit, versions, hardware, time."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "command": command,
        "commit": commit(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
        "hardware": {"cpus": cores(), "machine": platform.machine(), "cpu": cpu_name(), "gpu": gpu},
    }


def peak_memory(device: torch.device) -> int:
    """Bytes: CUDA's allocator peak, or on the CPU the most this process was ever resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
