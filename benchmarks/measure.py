"""Train one model and write one result file: losses, retrieval on the test split under every protocol, and what was
reached on the way. The result files of the README come from here; numbers only, no text and no image.

    python benchmarks/measure.py --data data/phantom --run runs/phantom --out benchmarks/results/phantom_demo.json
"""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from mcr_lib import retrieval, run_folder
from mcr_lib.config import parse_settings, resolve
from mcr_lib.data import PairData
from mcr_lib.tokenizer import load_tokenizer

MINUTES = (1, 2, 5)  # of training, at which the test split is looked at: a learning curve, not a way to choose


def main(data: Annotated[Path, typer.Option()], run: Annotated[Path, typer.Option()],
         out: Annotated[Path, typer.Option()], profile: str = "demo",
         settings: Annotated[list[str], typer.Option("--set")] = [],  # noqa: B006 (typer copies it)
         device: str = "auto") -> None:
    """Train with the profile's numbers, measure, write `out`."""
    command = shlex.join(["python", *sys.argv])
    device = run_folder.pick_device(device)
    reached, due = [], list(MINUTES)

    def look(trainer, record):
        if not due or record["seconds"] < 60 * due[0]:
            return
        tokenizer = load_tokenizer(run / "tokenizer")
        pairs = PairData(data, "test", tokenizer, trainer.model.config, trainer.config.views)
        image_features, text_features = run_folder.encode(trainer.model, pairs, device)
        row = retrieval.evaluate(image_features, text_features, texts=pairs.table["report"].tolist(),
                                 labels=pairs.table["labels"].tolist(), n_bootstrap=0,
                                 clusters=pairs.table["patient_id"].tolist())
        reached.append({"minutes": due.pop(0), "step": record["step"], "seconds": round(record["seconds"], 1),
                        **{k: round(v, 2) for k, v in row.items() if "R@" in k}})

    trainer = run_folder.train(data, run, resolve(profile, parse_settings(settings)), device=device, callbacks=[look],
                               command=command)
    losses = {when: {k: v for k, v in record.items() if k.endswith("loss")}
              for when, record in (("first", trainer.log[0]), ("last", trainer.log[-1]))}
    results = {f"{protocol}, {'masked' if masked else 'unmasked'}":
               run_folder.evaluate(run, data, protocol=protocol, masked=masked, device=device)
               for protocol, masked in (("text-identical", False), ("text-identical", True), ("exact", False),
                                        ("label-match", False))}
    about = next(iter(results.values()))
    shared = ("data", "training", "versions", "hardware", "commit", "time", "weights_sha256", "views")
    run_folder.write_json(out, {
        "command": command, **{k: about[k] for k in shared}, "settings": settings, "losses": losses,
        "reached": reached,
        "results": {name: {k: v for k, v in r.items() if k not in {*shared, "command"}} for name, r in results.items()},
    })
    print(f"wrote {out}")


if __name__ == "__main__":
    typer.run(main)
