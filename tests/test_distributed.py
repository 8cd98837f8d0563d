"""Training in parts, over processes and within one: the same gradient and the same run as in one piece."""

import json
import multiprocessing
import os
import socket

import numpy as np
import pytest
import torch
from test_model import FRAMEWORKS, TINY, make_batch

from benchmarks.cost import recovery
from mcr_lib.config import ConfigError, MCRConfig, TrainConfig, resolve
from mcr_lib.engine import distributed
from mcr_lib.evaluate import evaluate_run
from mcr_lib.model import MCR, Batch
from mcr_lib.run import train_run
from mcr_lib.trainer import Trainer

CPU = torch.device("cpu")
PAIRS = 11  # a step's; no share of it is even


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def run_processes(world: int, function, *arguments, raises: bool = True) -> list:
    """function(*arguments) in `world` processes that form a group → what each returns, or the exception it ended by;
    the first of those is raised, unless raises=False. They share one import of torch, which a start by torchrun would
    repeat; that start has its tests in test_recovery.py."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mcr_lib.run"])
    queue, port = context.SimpleQueue(), free_port()
    processes = [
        context.Process(target=_process, args=(queue, rank, world, port, function, arguments))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    results = dict(queue.get() for _ in processes)
    for process in processes:
        process.join(timeout=60)
    failures = [result for result in results.values() if isinstance(result, Exception)]
    if failures and raises:
        raise failures[0]
    return [results[rank] for rank in range(world)]


def _process(queue, rank, world, port, function, arguments) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    try:
        with distributed.process_group():
            queue.put((rank, function(*arguments)))
    except Exception as error:
        queue.put((rank, error))


def tiny(framework: str) -> MCR:
    torch.manual_seed(0)
    model = MCR(MCRConfig(**TINY | {"framework": framework, "dropout": 0.2})).double().train()
    torch.nn.init.normal_(model.log_scale, 1.5, 0.1)
    return model


def cut(batch: Batch, rows: np.ndarray) -> Batch:
    return Batch(
        batch.images[rows].double(),
        batch.input_ids[rows],
        batch.attention_mask[rows],
        batch.image_noise[rows],
        batch.text_noise[rows],
    )


def parts_of(rank: int, world: int, accumulation: int) -> list[Batch]:
    """Process `rank`'s parts of a step whose reports have 16 to 4 tokens: other counts of scored tokens in each."""
    batch = make_batch(PAIRS, lengths=[16, 4, 9, 12, 5, 16, 7, 6, 11, 4, 13])
    own = np.array_split(np.arange(PAIRS), [PAIRS * r // world for r in range(1, world)])[rank]
    return [cut(batch, rows) for rows in np.array_split(own, accumulation)]


class OneStep:
    total_steps = 1


def one_step(framework: str, accumulation: int) -> tuple[dict, dict, float]:
    """Gradient of every parameter, losses, norm: of a step by the Trainer, whose SGD with rate 1 subtracts the
    gradient from the weights."""
    model = tiny(framework)
    config = TrainConfig(learning_rate=1, warmup=0, clip_norm=1e9, precision="fp32", seed=5)
    trainer = Trainer(model, OneStep(), config, run="unused", device=CPU)
    trainer.optimizer = torch.optim.SGD(model.parameters(), lr=1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    losses, norm = trainer.train_step(
        parts_of(distributed.rank(), distributed.world_size(), accumulation)
    )
    gradients = {name: (before[name] - p).detach().numpy() for name, p in model.named_parameters()}
    return gradients, {k: float(v) for k, v in losses.items()}, float(norm)


def whole_graph(framework: str, world: int, accumulation: int) -> tuple[dict, dict]:
    """The same by the definition: one graph over all parts, the dropout of each from (seed, step, process, part), and
    every loss a mean over the step."""
    model = tiny(framework)
    outputs, parts = [], []
    for rank in range(world):
        for p, part in enumerate(parts_of(rank, world, accumulation)):
            key = np.random.SeedSequence([5, 0, rank, p]).generate_state(1, np.uint64)[0]
            torch.manual_seed(int(key) // 2)
            outputs.append(model(part))
            parts.append(part)
    image, text = (
        torch.cat([getattr(o, f) for o in outputs]) for f in ("image_features", "text_features")
    )
    logits = model.log_scale.exp() * image @ text.T
    target = torch.arange(PAIRS)
    losses = {
        "contrastive_loss": (
            torch.nn.functional.cross_entropy(logits, target)
            + torch.nn.functional.cross_entropy(logits.T, target)
        )
        / 2
    }
    if framework in ("mcr", "two-stream"):
        scored = [(model.mask_report(part)[2] != -100).sum() for part in parts]
        losses["image_reconstruction_loss"] = (
            sum(
                o.image_reconstruction_loss * len(p.images)
                for o, p in zip(outputs, parts, strict=True)
            )
            / PAIRS
        )
        losses["text_reconstruction_loss"] = sum(
            o.text_reconstruction_loss * n for o, n in zip(outputs, scored, strict=True)
        ) / sum(scored)
    sum(losses.values()).backward()
    return {name: p.grad.numpy() for name, p in model.named_parameters()}, {
        k: v.item() for k, v in losses.items()
    }


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("world, accumulation", [(1, 1), (1, 4), (2, 1), (3, 3)])
def test_gradient_in_parts_is_the_gradient_of_the_whole_in_float64(framework, world, accumulation):
    """Dropout on, parts of unequal size, the temperature's gradient among them; processes and cache in any mixture."""
    expected, losses = whole_graph(framework, world, accumulation)
    run = (
        run_processes(world, one_step, framework, accumulation)
        if world > 1
        else [one_step(framework, accumulation)]
    )
    for gradients, _, norm in run:  # every process takes the same step
        assert gradients.keys() == expected.keys()
        for name in expected:
            np.testing.assert_allclose(
                gradients[name], expected[name], rtol=1e-8, atol=1e-13, err_msg=name
            )
        assert norm == pytest.approx(
            np.sqrt(sum((g**2).sum() for g in expected.values())), rel=1e-9
        )
    for name, value in losses.items():
        assert sum(r[1][name] for r in run) == pytest.approx(value, rel=1e-9), name
    assert sum(r[1]["loss"] for r in run) == pytest.approx(sum(losses.values()), rel=1e-9)


SETTINGS = dict(
    steps=50, batch_size=18, log_every=1, checkpoint_every=25, precision="fp32"
)  # 18 / 4 is not even


def train(data, run, settings: dict, resume: bool = False) -> None:
    train_run(data, run, resolve("smoke", settings), resume=resume, device=CPU, command="tests")


def log_of(run) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(a, b) -> None:
    """Every loss of every step within 1e-5, every weight within 2e-4 (learning rate 1e-3), and the biases of attention
    keys, on which attention does not depend, within 2e-3."""
    apart = recovery.difference(a, b)
    assert apart["loss"] < 1e-5 and apart["weight"] < 2e-4 and apart["key_bias"] < 2e-3, apart


@pytest.fixture(scope="module")
def alone(phantom, tmp_path_factory):
    """Fifty steps of one process."""
    run = tmp_path_factory.mktemp("alone") / "run"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train(phantom, run, SETTINGS)
    torch.set_num_threads(threads)
    return run


@pytest.mark.parametrize("world, accumulation", [(2, 1), (4, 1), (2, 3)])
def test_several_processes_give_the_run_of_one(world, accumulation, alone, phantom, tmp_path):
    run_processes(
        world, train, phantom, tmp_path / "run", SETTINGS | {"accumulation": accumulation}
    )
    assert_same_run(alone, tmp_path / "run")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["processes"] == world and manifest["steps"] == 50


def test_the_comparison_notices_a_slightly_other_run(alone, phantom, tmp_path):
    train(phantom, tmp_path / "run", SETTINGS | {"weight_decay": 0.1})  # instead of 0.05
    with pytest.raises(AssertionError, match="weight"):
        assert_same_run(alone, tmp_path / "run")


def measured(run, data) -> dict:
    result = evaluate_run(run, data, split="train", device=CPU)
    return {k: v for k, v in result.items() if "R@" in k or k == "rsum"} | result["modality_gap"]


def test_evaluation_in_shares_measures_the_same(alone, phantom):
    one = measured(alone, phantom)
    for result in run_processes(3, measured, alone, phantom):  # every process gets it
        assert result == pytest.approx(one, abs=1e-4)


def collectives() -> list:
    """What each process says of: shares of 7, uneven rows gathered, a sum, the largest, something the main one does."""
    rank = distributed.rank()
    rows, first = distributed.all_gather_rows(torch.full((rank * 2, 3), rank))
    x, y = torch.tensor([[1.0, rank]]), torch.tensor(10)
    distributed.all_reduce_sum(x, y)
    return [
        distributed.own_share(7),
        rows[:, 0].tolist(),
        first,
        x.tolist(),
        distributed.all_reduce_max(5 if rank == 1 else rank),
        distributed.run_on_main(lambda: f"done by {distributed.rank()}"),
    ]


def test_what_processes_do_together():
    rows, summed = [1, 1, 2, 2, 2, 2], [[3.0, 3.0]]
    assert run_processes(3, collectives) == [
        [slice(*share), rows, first, summed, 5, "done by 0"]
        for share, first in (((0, 2), 0), ((2, 4), 0), ((4, 7), 2))
    ]
    assert [distributed.own_share(7), distributed.all_reduce_max(3), distributed.rank()] == [
        slice(0, 7),
        3,
        0,
    ]  # alone


def failing(where: list[int]) -> str:
    def action():
        if distributed.rank() in where:
            raise ConfigError("no such thing")

    try:
        distributed.run_everywhere(action)
    except Exception as error:
        return type(error).__name__
    return "nothing"


def test_a_failure_anywhere_ends_all_and_is_said_once():
    assert run_processes(3, failing, [1]) == ["EndedElsewhere", "ConfigError", "EndedElsewhere"]
    assert run_processes(3, failing, [0, 1, 2]) == [
        "ConfigError",
        "EndedElsewhere",
        "EndedElsewhere",
    ]


def test_too_few_pairs_for_the_parts_is_refused_before_anything_is_written(phantom, tmp_path):
    with pytest.raises(ConfigError, match=r"batch_size=2 .* 1 processes × accumulation=3"):
        train(phantom, tmp_path / "run", SETTINGS | {"batch_size": 2, "accumulation": 3})
    with pytest.raises((ConfigError, distributed.EndedElsewhere)):
        run_processes(3, train, phantom, tmp_path / "run", SETTINGS | {"batch_size": 2})
    assert not (tmp_path / "run").exists()
