"""Where a result came from: code, versions, licences, machine, memory. Not here: what is written with it."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import resource
import subprocess
import sys
import time
from functools import cache
from importlib.metadata import version
from pathlib import Path

from .machine import cores, cpu_name

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
    import torch  # seconds, which preparing data does not need

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "command": command,
        "commit": commit(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
        "hardware": {"cpus": cores(), "machine": platform.machine(), "cpu": cpu_name(), "gpu": gpu},
    }


def peak_memory(device) -> int:
    """Bytes: CUDA's allocator peak, or on the CPU the most this process was ever resident."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def libraries() -> list[tuple[str, str, str, str]]:
    """The kit, Python and every library that the kit asks for: name, version, the day it was installed, licence."""
    kit = importlib.metadata.distribution("mcr-kit")
    lines = [_library(kit), ("python", platform.python_version(), "", "PSF-2.0")]
    for required in kit.requires or ():
        if "extra ==" not in required:
            name = re.match(r"[\w.-]+", required)[0]
            lines.append(_library(importlib.metadata.distribution(name)))
    return lines


def _library(found: importlib.metadata.Distribution) -> tuple[str, str, str, str]:
    installed = ""
    for file in found.files or ():
        if file.name in ("METADATA", "PKG-INFO"):
            changed = Path(found.locate_file(file)).stat().st_mtime
            installed = time.strftime("%Y-%m-%d", time.gmtime(changed))
    return found.name, found.version, installed, _licence(found.metadata)


def _licence(about) -> str:
    """By its SPDX expression, its classifiers, or the first line of what it says."""
    classifiers = about.get_all("Classifier") or ()
    named = [line.split(" :: ")[-1] for line in classifiers if line.startswith("License ::")]
    said = about.get("License-Expression") or ", ".join(named) or about.get("License") or ""
    return said.strip().split("\n")[0].replace("UNKNOWN", "")[:70] or "not stated"
