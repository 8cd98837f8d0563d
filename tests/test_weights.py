"""Starting from weights on disk: a timm folder and a transformers folder, as a user has them, through `train`."""

import json
from contextlib import suppress

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, BertConfig, BertForMaskedLM, BertModel
from transformers.utils import logging

from data_prep import folder
from mcr_lib.config import ConfigError, resolve
from mcr_lib.engine import pretrained
from mcr_lib.model import MCR
from mcr_lib.run import load_run, train_run
from mcr_lib.tokenizer import train_tokenizer

SMALL = resolve("smoke").model


@pytest.fixture(scope="module")
def timm_folder(tmp_path_factory):
    """A three-channel timm ViT with a classifier, of another input size than the smoke profile's."""
    torch.manual_seed(1)
    vit = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=96,
        embed_dim=SMALL.embed_dim,
        depth=SMALL.depth,
        num_heads=SMALL.num_heads,
    )
    where = tmp_path_factory.mktemp("timm")
    save_file(vit.state_dict(), where / "model.safetensors")
    return where, vit


@pytest.fixture(scope="module")
def bert_folder(phantom, tmp_path_factory):
    """A transformers BERT with a language-model head, and the tokenizer it belongs to."""
    where = tmp_path_factory.mktemp("bert")
    tokenizer = train_tokenizer(folder.read(phantom)["report"], 400, where)
    torch.manual_seed(2)
    bert = BertForMaskedLM(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=SMALL.text_embed_dim,
            num_hidden_layers=SMALL.text_depth,
            num_attention_heads=SMALL.text_num_heads,
            intermediate_size=4 * SMALL.text_embed_dim,
        )
    )
    bert.save_pretrained(where)
    return where, bert.bert, tokenizer


def test_a_run_starts_from_both(phantom, timm_folder, bert_folder, tmp_path):
    """One step at a learning rate of next to nothing leaves the weights as they were loaded."""
    (images, vit), (texts, bert, tokenizer) = timm_folder, bert_folder
    train_run(
        phantom,
        tmp_path / "run",
        device=torch.device("cpu"),
        config=resolve(
            "smoke",
            {
                "image_weights": str(images),
                "text_weights": str(texts),
                "steps": 1,
                "learning_rate": 1e-12,
                "weight_decay": 0,
            },
        ),
    )
    model, its_tokenizer = load_run(tmp_path / "run")
    assert its_tokenizer.get_vocab() == tokenizer.get_vocab()
    for name, weight in bert.state_dict().items():
        torch.testing.assert_close(
            model.report_encoder.bert.state_dict()[name], weight, atol=1e-6, rtol=0
        )
    for name, weight in vit.blocks.state_dict().items():
        torch.testing.assert_close(
            model.image_encoder.vit.blocks.state_dict()[name], weight, atol=1e-6, rtol=0
        )


def test_grey_images_give_what_timm_gives_for_their_rgb_copy(timm_folder):
    images, vit = timm_folder
    model = MCR(SMALL.model_copy(update={"img_size": 96})).eval()
    pretrained.load_vit(model.image_encoder.vit, str(images))
    grey = torch.randn(3, 1, 96, 96)
    expected = vit.eval().forward_features(grey.expand(-1, 3, -1, -1))[:, 1:]
    torch.testing.assert_close(model.image_encoder(grey), expected, atol=1e-5, rtol=0)


def test_reports_give_what_transformers_gives(bert_folder):
    texts, bert, tokenizer = bert_folder
    model = MCR(SMALL.model_copy(update={"vocab_size": len(tokenizer)})).eval()
    pretrained.load_bert(model.report_encoder.bert, str(texts))
    ids = torch.tensor([tokenizer("moderate cardiomegaly, no pleural effusion")["input_ids"]])
    expected = bert.eval()(ids).last_hidden_state
    torch.testing.assert_close(
        model.report_encoder(ids, torch.ones_like(ids)), expected, atol=1e-5, rtol=0
    )


def test_weights_of_another_width_are_refused_in_one_line(timm_folder, bert_folder):
    model = MCR(SMALL.model_copy(update={"embed_dim": 96, "text_embed_dim": 96}))
    with pytest.raises(ConfigError, match=r"image_weights: .* does not fit this encoder"):
        pretrained.load_vit(model.image_encoder.vit, str(timm_folder[0]))
    with pytest.raises(ConfigError, match=r"text_weights: .* does not fit this encoder"):
        pretrained.load_bert(model.report_encoder.bert, str(bert_folder[0]))


def test_full_size_bert_folder_round_trip(tmp_path):
    """BERT-base as transformers writes it (12 layers, 768 wide) is read back whole by the base profile's encoder."""
    bert = BertModel(BertConfig())
    bert.save_pretrained(tmp_path)
    model = MCR(resolve("base").model.model_copy(update={"depth": 1, "framework": "contrastive"}))
    pretrained.load_bert(model.report_encoder.bert, str(tmp_path))
    own = model.report_encoder.bert.state_dict()
    assert all(
        torch.equal(own[name], weight)
        for name, weight in bert.state_dict().items()
        if "pooler" not in name
    )


BERT = dict(
    vocab_size=90,
    hidden_size=SMALL.text_embed_dim,
    num_hidden_layers=SMALL.text_depth,
    num_attention_heads=SMALL.text_num_heads,
    intermediate_size=4 * SMALL.text_embed_dim,
)


def small_bert(**changes):
    """A BERT of the smoke profile's size, but for `changes`."""
    return BertModel(BertConfig(**BERT | changes))


def save_bert(where, max_shard_size="1GB", **changes):
    """`small_bert`, as transformers writes it."""
    small_bert(**changes).save_pretrained(where, max_shard_size=max_shard_size)


def other_architecture(where):
    save_bert(where)
    config = json.loads((where / "config.json").read_text())
    (where / "config.json").write_text(json.dumps(config | {"model_type": "electra"}))


def saved_under_a_prefix(where):
    save_bert(where)
    state = load_file(where / "model.safetensors")
    state = {f"text_encoder.model.{name}": tensor for name, tensor in state.items()}
    save_file(state, where / "model.safetensors", metadata={"format": "pt"})


def with_relative_positions(where):
    save_bert(where)
    state = load_file(where / "model.safetensors")
    state["encoder.layer.0.attention.self.distance_embedding.weight"] = torch.zeros(1023, 16)
    save_file(state, where / "model.safetensors", metadata={"format": "pt"})


def without_a_tensor(where):
    save_bert(where)
    state = load_file(where / "model.safetensors")
    del state["encoder.layer.0.output.dense.weight"]
    save_file(state, where / "model.safetensors", metadata={"format": "pt"})


def with_a_number(value):
    def save(where):
        save_bert(where)
        state = load_file(where / "model.safetensors")
        state["encoder.layer.0.output.dense.weight"][0, 0] = value
        save_file(state, where / "model.safetensors", metadata={"format": "pt"})

    return save


@pytest.mark.parametrize(
    "save, words",
    [
        (with_a_number(torch.nan), "not every number of encoder.layer.0.output.dense.weight"),
        (with_a_number(torch.inf), "is finite"),
        (other_architecture, "model_type='electra'"),
        (saved_under_a_prefix, "lacks .* of the encoder's tensors"),
        (without_a_tensor, "lacks 1 of the encoder's tensors, first encoder.layer.0"),
        (lambda where: save_bert(where, num_attention_heads=1), "num_attention_heads=1"),
        (with_relative_positions, "does not fit.*distance_embedding"),
        (lambda where: save_bert(where, is_decoder=True), "is_decoder=True"),
        (lambda where: save_bert(where, hidden_act="relu"), "hidden_act='relu'"),
        (lambda where: save_bert(where, layer_norm_eps=1e-5), "layer_norm_eps=1e-05"),
        (lambda where: save_bert(where, vocab_size=91), "does not fit"),
        (lambda where: save_bert(where, num_hidden_layers=2), "does not fit"),
    ],
)
def test_report_weights_are_loaded_whole_or_refused_in_one_line(save, words, tmp_path):
    save(tmp_path)
    torch.manual_seed(0)
    bert = MCR(SMALL.model_copy(update={"vocab_size": 90})).report_encoder.bert
    with pytest.raises(ConfigError, match=f"text_weights: .*{words}") as error:
        pretrained.load_bert(bert, str(tmp_path))
    assert "\n" not in str(error.value)


# ------------------------------------------------- what was tried: other people's encoders, in small local folders

VIT = dict(embed_dim=SMALL.embed_dim, depth=SMALL.depth, num_heads=SMALL.num_heads)


def save_vit(where, architecture, **changes):
    """A timm ViT of the smoke profile's width and depth, as timm leaves it: weights and config.json."""
    torch.manual_seed(3)
    vit = timm.create_model(architecture, **VIT | changes).eval()
    save_file(vit.state_dict(), where / "model.safetensors")
    about = {"architecture": architecture, "num_classes": 1000, "model_args": VIT | changes}
    (where / "config.json").write_text(json.dumps(about))
    return vit


@pytest.mark.parametrize("patch_size, img_size", [(16, 96), (16, 128), (8, 96)])
@pytest.mark.parametrize(
    "architecture, changes",
    [
        ("vit_tiny_patch16_224", {}),
        ("vit_tiny_patch16_224", {"in_chans": 1}),
        ("vit_tiny_patch16_224", {"img_size": 384}),
        ("vit_small_patch8_224", {}),
        ("vit_small_patch32_224", {}),
        ("vit_tiny_patch16_224", {"num_classes": 0}),
        ("vit_base_patch16_224", {}),  # as MAE's
    ],
)
def test_vits_of_another_patch_size_and_resolution_are_loaded_as_timm_does(
    architecture, changes, patch_size, img_size, tmp_path
):
    """Compared with the same timm model, made for our sizes by timm's own conversion."""
    vit = save_vit(tmp_path, architecture, **changes)
    sizes = {"patch_size": patch_size, "img_size": img_size}
    model = MCR(SMALL.model_copy(update=sizes)).eval()
    pretrained.load_vit(model.image_encoder.vit, str(tmp_path))
    other = timm.create_model(architecture, **VIT | {"in_chans": 3, "num_classes": 0} | sizes)
    state = {k: v for k, v in vit.state_dict().items() if not k.startswith("head")}
    if changes.get("in_chans") == 1:
        state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"].repeat(1, 3, 1, 1) / 3
    other.load_state_dict(timm.models.vision_transformer.checkpoint_filter_fn(state, other))
    grey = torch.randn(2, 1, img_size, img_size)
    expected = other.eval().forward_features(grey.expand(-1, 3, -1, -1))[:, 1:]
    torch.testing.assert_close(model.image_encoder(grey), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "architecture, changes, words",
    [
        ("deit_tiny_distilled_patch16_224", {}, "dist_token"),
        ("vit_tiny_patch16_224", {"reg_tokens": 4}, "reg_token"),
        ("vit_base_patch16_reg4_gap_256", {}, "reg_token.*cls_token"),
        ("vit_small_patch14_reg4_dinov2", {}, "ls1.gamma"),
        ("deit3_small_patch16_224", {}, "ls1.gamma"),
        ("vit_base_patch16_clip_224", {}, "norm_pre"),
        ("vit_base_patch16_siglip_224", {}, "attn_pool.*cls_token"),
        ("vit_relpos_small_patch16_224", {}, "rel_pos"),
        ("vit_tiny_patch16_224", {"depth": SMALL.depth + 1}, "12 tensors more"),
        ("vit_tiny_patch16_224", {"depth": SMALL.depth - 1}, "12 fewer"),
        ("vit_tiny_patch16_224", {"embed_dim": 96}, "size mismatch"),
        ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg"}, "cls_token"),
        ("vit_tiny_patch16_224", {"num_heads": 6}, "6 heads, .* 3 heads"),  # no tensor shows it
        ("vit_tiny_patch16_224", {"act_layer": "relu"}, "ReLU, .* GELU"),
    ],
)
def test_image_weights_of_another_make_are_refused_in_one_line(
    architecture, changes, words, tmp_path
):
    save_vit(tmp_path, architecture, **changes)
    with pytest.raises(ConfigError, match=f"image_weights: .* does not fit.*{words}") as error:
        pretrained.load_vit(MCR(SMALL).image_encoder.vit, str(tmp_path))
    assert "\n" not in str(error.value)


def as_bin(where):
    """As older folders are: one pickle of tensors, read by torch's `weights_only`."""
    save_bert(where)
    state = load_file(where / "model.safetensors")
    (where / "model.safetensors").unlink()
    torch.save(state, where / "pytorch_model.bin")


def in_shards(where):
    save_bert(where, max_shard_size="40KB")
    assert len(list(where.glob("model-*.safetensors"))) > 2


def bin_in_shards(where):
    in_shards(where)
    index = json.loads((where / "model.safetensors.index.json").read_text())
    for file in where.glob("model-*.safetensors"):
        torch.save(load_file(file), where / renamed(file.name))
    index["weight_map"] = {key: renamed(name) for key, name in index["weight_map"].items()}
    (where / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    for file in where.glob("model*"):
        file.unlink()


def renamed(name):
    return name.replace("model", "pytorch_model").replace(".safetensors", ".bin")


@pytest.mark.parametrize("save", [save_bert, as_bin, in_shards, bin_in_shards])
def test_berts_are_loaded_however_they_were_saved(save, tmp_path):
    """And the tokenizer beside them is the run's."""
    torch.manual_seed(0)
    save(tmp_path)
    torch.manual_seed(0)
    expected = small_bert().state_dict()
    bert = MCR(SMALL.model_copy(update={"vocab_size": 90})).report_encoder.bert
    said = pretrained.load_bert(bert, str(tmp_path))
    assert said["tensors"] == len(bert.state_dict())
    assert all(torch.equal(expected[name], tensor) for name, tensor in bert.state_dict().items())


class Evil:
    def __reduce__(self):
        return pytest.fail, ("the pickle was run",)


def test_a_pickle_that_holds_more_than_tensors_is_refused_and_not_run(tmp_path):
    as_bin(tmp_path)
    torch.save({"embeddings": Evil()}, tmp_path / "pytorch_model.bin")
    bert = MCR(SMALL.model_copy(update={"vocab_size": 90})).report_encoder.bert
    with pytest.raises(ConfigError, match=r"cannot be loaded \(UnpicklingError\)"):
        pretrained.load_bert(bert, str(tmp_path))


@pytest.mark.parametrize(
    "name, sizes",
    [
        ("roberta", {}),
        ("electra", {}),
        ("deberta-v2", {}),
        ("modernbert", dict(pad_token_id=0, cls_token_id=1, sep_token_id=2, eos_token_id=2)),
        ("distilbert", dict(dim=48, n_layers=1, n_heads=3, hidden_dim=192)),
        ("clip_text_model", dict(bos_token_id=1, eos_token_id=2)),
    ],
)
def test_text_weights_of_other_architectures_are_refused_by_their_name(name, sizes, tmp_path):
    own = {} if name == "distilbert" else {key: BERT[key] for key in BERT if key != "vocab_size"}
    config = AutoConfig.for_model(name, vocab_size=90, **own | sizes)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    bert = MCR(SMALL.model_copy(update={"vocab_size": 90})).report_encoder.bert
    with pytest.raises(ConfigError, match=f"text_weights: .* has model_type='{name}'") as error:
        pretrained.load_bert(bert, str(tmp_path))
    assert "\n" not in str(error.value) and "only BERT models" in str(error.value)


@pytest.mark.parametrize("theirs, ours", [(3, 3), (1, 1), (3, 1)])
def test_colour_is_summed_only_where_it_has_to_be(theirs, ours, tmp_path):
    sizes = {"embed_dim": 48, "depth": 2, "num_heads": 3}
    torch.manual_seed(3)
    source = timm.create_model("vit_tiny_patch16_224", img_size=64, in_chans=theirs, **sizes)
    save_file(source.state_dict(), tmp_path / "vit.safetensors")
    vit = MCR(SMALL.model_copy(update={"in_chans": ours})).image_encoder.vit
    told = pretrained.load_vit(vit, str(tmp_path / "vit.safetensors"))
    expected = source.patch_embed.proj.weight
    expected = expected if theirs == ours else expected.sum(1, keepdim=True)
    assert vit.patch_embed.proj.weight.equal(expected)
    assert told["tensors"] == len(vit.state_dict()) and len(told["sha256"]) == 64


def test_a_name_is_asked_of_timm_and_a_file_is_not(monkeypatch):
    asked = []

    def create_model(name, **how):
        asked.append((name, how))
        raise RuntimeError("no network")

    monkeypatch.setattr(pretrained.timm, "create_model", create_model)
    vit = MCR(SMALL).image_encoder.vit
    with pytest.raises(ConfigError, match="'vit_tiny' cannot be loaded"):
        pretrained.load_vit(vit, "vit_tiny")
    assert asked == [("vit_tiny", {"pretrained": True, "num_classes": 0})]
    with pytest.raises(ConfigError, match=r"nowhere\.safetensors' cannot be loaded"):
        pretrained.load_vit(vit, "nowhere.safetensors")
    assert len(asked) == 1


def test_code_beside_report_weights_is_neither_run_nor_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    about = {
        "model_type": "evil",
        "auto_map": {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"},
    }
    (tmp_path / "config.json").write_text(json.dumps(about))
    ran = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nclass Evil: ...\n")
    with pytest.raises(ConfigError, match="text_weights"):
        pretrained.load_bert(MCR(SMALL).report_encoder.bert, str(tmp_path))
    assert not ran.exists()


def test_a_vit_of_one_layer_is_known_by_its_heads(monkeypatch):
    sizes = {"img_size": 64, "embed_dim": 48, "depth": 1, "in_chans": 1}
    vit = MCR(SMALL.model_copy(update={"depth": 1})).image_encoder.vit
    made = {
        heads: timm.create_model("vit_tiny_patch16_224", num_heads=heads, num_classes=0, **sizes)
        for heads in (3, 4)
    }
    monkeypatch.setattr(pretrained.timm, "create_model", lambda name, **_: made[int(name)])
    with pytest.raises(ConfigError, match="it has 4 heads"):
        pretrained.load_vit(vit, "4")
    pretrained.load_vit(vit, "3")
    assert vit.pos_embed.equal(made[3].pos_embed)


def test_what_was_loaded_is_told_apart_by_every_value_and_name():
    torch.manual_seed(0)
    one, other = (torch.nn.Sequential(torch.nn.Linear(3, 2)) for _ in range(2))
    assert (
        pretrained._describe("key", one, "x")["sha256"]
        != pretrained._describe("key", other, "x")["sha256"]
    )
    other.load_state_dict(one.state_dict())
    assert pretrained._describe("key", one, "x") == pretrained._describe("key", other, "x")
    named = torch.nn.ModuleDict({"other": one[0]})  # the same values under another name
    assert (
        pretrained._describe("key", named, "x")["sha256"]
        != pretrained._describe("key", one, "x")["sha256"]
    )


def test_transformers_is_silent_while_weights_are_read_and_talks_again_afterwards():
    before = logging.get_verbosity()
    logging.set_verbosity_info()
    try:
        for fails in (False, True):
            with suppress(ConfigError), pretrained._reading("text_weights", "x", "y"):
                inside = logging.get_verbosity()
                if fails:
                    raise OSError
            assert (inside, logging.get_verbosity()) == (logging.ERROR, logging.INFO)
    finally:
        logging.set_verbosity(before)
