"""A run in other people's code: exported, loaded again and run elsewhere, with the same vectors."""

import json
import shutil
import stat

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import mcr_lib
from data_prep import folder, run_files
from data_prep.errors import KitError
from data_prep.own_files import DamagedFile
from data_prep.run_files import RunError
from mcr_lib.config import resolve
from mcr_lib.engine.checkpoint import CheckpointError
from mcr_lib.evaluate import evaluate_run
from mcr_lib.export import export_run, sides
from mcr_lib.model import MCR

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(smoke_run, phantom, tmp_path_factory):
    """A run folder of its own, evaluated."""
    where = tmp_path_factory.mktemp("runs") / "evaluated"
    shutil.copytree(smoke_run, where)
    evaluate_run(where, phantom, device=CPU)
    return where


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "model"
    export_run(run, out)
    return out


@pytest.fixture(scope="module")
def asked(phantom):
    """Pictures and sentences to encode."""
    table = folder.read(phantom)[:7]
    return [phantom / path for path in table.image_path], table.report.tolist()


@pytest.fixture
def copy(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "copy")


def test_an_export_gives_the_vectors_of_its_run(run, exported, asked):
    first, again = mcr_lib.Encoder(run, "cpu"), mcr_lib.Encoder(exported, "cpu")
    pictures, sentences = asked
    np.testing.assert_allclose(
        again.encode_images(pictures), first.encode_images(pictures), atol=1e-6
    )
    np.testing.assert_allclose(
        again.encode_texts(sentences), first.encode_texts(sentences), atol=1e-6
    )


def first_layout(run):
    """As this project's first version left it: sizes instead of hashes, no data.json, no seal, no score."""
    for name in ("data.json", "training_pictures.npy", "metrics.json"):
        (run / name).unlink()
    about = json.loads((run / "manifest.json").read_text())
    for entry in ("data_folder", "pretrained", "processes", "files"):
        about.pop(entry)
    about["data"].pop("licence")
    (run / "manifest.json").write_text(json.dumps(about))
    for state in run.glob("checkpoints/*/state.json"):
        content = json.loads(state.read_text())
        kept = {key: content[key] for key in ("step", "sizes", "scaler", "seconds")}
        state.write_text(json.dumps(kept))


def older_metrics(run):
    metrics = json.loads((run / "metrics.json").read_text())
    metrics.pop("weights_sha256")
    metrics.pop("protocol")
    (run / "metrics.json").write_text(json.dumps(metrics))


@pytest.mark.parametrize("change", [first_layout, older_metrics])
def test_a_run_of_an_older_version_is_read_and_exported(change, run, asked, tmp_path):
    older = shutil.copytree(run, tmp_path / "older")
    change(older)
    export_run(older, tmp_path / "out")
    expected = mcr_lib.Encoder(run, "cpu").encode_texts(asked[1])
    for place in (older, tmp_path / "out"):
        found = mcr_lib.Encoder(place, "cpu").encode_texts(asked[1])
        np.testing.assert_allclose(found, expected, atol=1e-6)
    if change is first_layout:
        with pytest.raises(RunError, match="--data DIR"):
            run_files.find_training_data(older)


def test_the_hub_s_own_ways_read_and_write_it(run, exported, tmp_path):
    model, _ = mcr_lib.load(run)
    from_hub = MCR.from_pretrained(exported)
    from_hub.save_pretrained(tmp_path / "again")
    for other in (from_hub, MCR.from_pretrained(tmp_path / "again")):
        assert other.config == model.config and not other.training
        weights = other.state_dict()
        assert all(torch.equal(weights[name], w) for name, w in model.state_dict().items())


def test_an_export_holds_what_it_should_and_no_pickle(exported):
    names = {file.name for file in exported.iterdir()}
    assert {"config.json", "model.safetensors", "README.md", "preprocessor_config.json"} <= names
    assert {"tokenizer.json", "tokenizer_config.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl", ".py"))]
    assert all(stat.S_IMODE(file.stat().st_mode) & 0o044 for file in exported.iterdir())


def test_the_card_says_what_the_run_knows(run, exported):
    card = (exported / "README.md").read_text()
    metrics = json.loads((run / "metrics.json").read_text())
    manifest = json.loads((run / "manifest.json").read_text())
    assert "Not for clinical use" in card and "CC0-1.0" in card and "synthetic" in card
    assert manifest["weights_sha256"] in card and manifest["data"]["sha256"] in card
    for key, chance in metrics["chance"].items():
        low, high = metrics["interval"][key]
        row = f"| {key} | {metrics[key]:.2f} | {low:.2f} … {high:.2f} | {chance:.2f} |"
        assert row in card
    assert "{{" not in card and "{%" not in card and "None" not in card
    assert "\n\n\n" not in card and "\n\n## Limits" in card


@pytest.mark.parametrize(
    "name, words",
    [
        ("MIMIC-CXR", "PhysioNet Credentialed"),
        ("Open-i (IU chest X-ray)", "Demner-Fushman"),
        ("the archive of our hospital", "What the owner of the training data allows"),
    ],
)
def test_the_card_of_a_run_on_real_data_says_what_may_be_done(run, name, words, tmp_path):
    changed = shutil.copytree(run, tmp_path / "run")
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["data"] |= {"name": name, "synthetic": False}
    (changed / "manifest.json").write_text(json.dumps(manifest))
    (changed / "metrics.json").unlink()
    export_run(changed, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert words in card and "no patients)" not in card and "have not been measured" in card
    assert "\n\n\n" not in card and "\n\n## Limits" in card


def test_results_of_other_weights_are_not_shown(run, tmp_path):
    changed = shutil.copytree(run, tmp_path / "run")
    metrics = json.loads((run / "metrics.json").read_text()) | {"weights_sha256": "0" * 64}
    (changed / "metrics.json").write_text(json.dumps(metrics))
    export_run(changed, tmp_path / "out")
    assert "have not been measured" in (tmp_path / "out" / "README.md").read_text()


def test_a_folder_with_other_things_in_it_is_left_alone(run, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="holds other files"):
        export_run(run, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_what_stops_an_export_leaves_nothing(run, tmp_path, monkeypatch):
    monkeypatch.setattr(MCR, "save_pretrained", lambda *_: (_ for _ in ()).throw(OSError(28, "")))
    with pytest.raises(OSError):
        export_run(run, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def without(name):
    return lambda where: (where / name).unlink()


def other_entry(name, **entries):
    def change(where):
        content = json.loads((where / name).read_text())
        (where / name).write_text(json.dumps(content | entries))

    return change


def cut(where):
    file = where / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def other_tensors(where):
    tensors = load_file(where / "model.safetensors")
    tensors.pop("log_scale")
    save_file(tensors, where / "model.safetensors")


def with_code(where):
    other_entry("tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]})(where)
    (where / "evil.py").write_text("import sys; sys.exit('code of the folder was run')")


def other_words(where):
    file = where / "tokenizer.json"
    content = json.loads(file.read_text())
    words = content["model"]["vocab"]
    a, b = list(words)[10:12]
    words[a], words[b] = words[b], words[a]
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "change, kind, words",
    [
        (without("config.json"), RunError, "neither a run folder"),
        (without("model.safetensors"), DamagedFile, "model.safetensors"),
        (without("preprocessor_config.json"), DamagedFile, "missing"),
        (without("tokenizer.json"), KitError, "tokenizer"),
        (other_entry("config.json", framework="other"), DamagedFile, "framework"),
        (other_entry("config.json", extra=1), DamagedFile, "extra"),
        (other_entry("config.json", embed_dim=96), CheckpointError, "another configuration"),
        (other_entry("config.json", depth=1), CheckpointError, "another configuration"),
        (other_entry("preprocessor_config.json", image_mean=[0.4]), RunError, "otherwise"),
        (cut, DamagedFile, "model.safetensors"),
        (other_tensors, CheckpointError, "log_scale"),
        (other_words, RunError, "tokenizer is another"),
    ],
)
def test_a_damaged_export_is_one_line(change, kind, words, copy):
    change(copy)
    with pytest.raises(kind, match=words) as error:
        mcr_lib.Encoder(copy, "cpu")
    assert "\n" not in str(error.value)


def test_code_in_an_export_is_not_run(copy):
    with_code(copy)
    try:
        mcr_lib.Encoder(copy, "cpu")
    except KitError as error:
        assert "\n" not in str(error)


def test_the_hub_s_loader_leaves_nothing_random_and_reads_no_pickle(copy, exported):
    other_tensors(copy)
    with pytest.raises(RuntimeError, match="log_scale"):
        MCR.from_pretrained(copy)
    with pytest.raises(ValueError, match="nothing else is read"):
        MCR._load_as_pickle(None, None, "cpu", True)


@pytest.mark.parametrize(
    "pooling, alignment", [("mean", "mba"), ("attention", "abm"), ("max", "mba")]
)
def test_both_sides_pass_torch_export(pooling, alignment):
    """One graph for any batch size and length, and what it gives is what the model gives."""
    torch.manual_seed(0)
    model = MCR(resolve("smoke", {"pooling": pooling, "alignment": alignment}).model).eval()
    for name, side, inputs, axes in sides(model):
        program = torch.export.export(side, (), inputs, dynamic_shapes=axes).module()
        for size in (1, 3):
            for given in some_inputs(model, name, size):
                torch.testing.assert_close(program(**given), side(**given), atol=1e-6, rtol=0)


def some_inputs(model, name, size):
    """Inputs of other sizes than those it was traced by; padded texts among them."""
    config = model.config
    if name == "image":
        yield {"images": torch.randn(size, config.in_chans, config.img_size, config.img_size)}
        return
    for length in (3, 17, config.max_text_length):
        ids = torch.randint(5, 50, (size, length))
        present = torch.ones_like(ids)
        present[0, 2:] = 0
        yield {"input_ids": ids, "attention_mask": present}


def test_onnx_gives_what_pytorch_gives(run, tmp_path):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="pip install --editable '.[onnx]' for this test")
    import onnxruntime

    export_run(run, tmp_path / "out", onnx=True)
    model, _ = mcr_lib.load(tmp_path / "out")
    for name, side, _, _ in sides(model):
        session = onnxruntime.InferenceSession(tmp_path / "out" / f"{name}.onnx")
        for size in (1, 5):
            for given in some_inputs(model, name, size):
                (found,) = session.run(None, {key: x.numpy() for key, x in given.items()})
                np.testing.assert_allclose(found, side(**given).detach().numpy(), atol=1e-4)
                np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_onnx_without_its_packages_is_said_before_anything_is_written(run, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RunError, match=r"ONNX needs two packages: pip install"):
        export_run(run, tmp_path / "out", onnx=True)
    assert list(tmp_path.iterdir()) == []
