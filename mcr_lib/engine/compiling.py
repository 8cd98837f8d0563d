"""Compiling a model block by block, in place: blocks of a kind are traced once, however many the model has."""

from contextlib import contextmanager

from torch import nn

from ..config import ConfigError

BACKEND = "inductor"


def transformer_blocks(model: nn.Module) -> list[nn.Module]:
    """What stands in a list and has a layer norm in it: blocks of timm, transformers, open_clip."""
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList | nn.Sequential)]
    norms = {m for m in model.modules() if isinstance(m, nn.LayerNorm)}
    return [block for blocks in lists for block in blocks if norms & {*block.modules()} - {block}]


def compile_blocks(model: nn.Module) -> None:
    """Compile each block when it is first called, for any number of pairs and any length."""
    for block in transformer_blocks(model):
        block.compile(backend=BACKEND, dynamic=True)


@contextmanager
def compiler_errors():
    """Say in one line that compiling failed, and what to do."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        reason = " ".join(str(error).split())[:200]
        advice = "install a C++ compiler (g++), or give --set compile=false"
        raise ConfigError(f"compile=true, but compiling failed: {reason}: {advice}") from error
