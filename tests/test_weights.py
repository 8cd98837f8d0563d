"""Starting from weights on disk: a timm folder and a transformers folder, as a user has them, through `train`."""

import json

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, BertModel

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


def save_bert(where, **changes):
    """A BERT of the smoke profile's size, but for `changes`, as transformers writes it."""
    sizes = dict(
        vocab_size=90,
        hidden_size=SMALL.text_embed_dim,
        num_hidden_layers=SMALL.text_depth,
        num_attention_heads=SMALL.text_num_heads,
        intermediate_size=4 * SMALL.text_embed_dim,
    )
    BertModel(BertConfig(**sizes | changes)).save_pretrained(where)


def other_architecture(where):
    save_bert(where)
    config = json.loads((where / "config.json").read_text())
    (where / "config.json").write_text(json.dumps(config | {"model_type": "electra"}))


def saved_under_a_prefix(where):
    save_bert(where)
    state = load_file(where / "model.safetensors")
    state = {f"text_encoder.model.{name}": tensor for name, tensor in state.items()}
    save_file(state, where / "model.safetensors", metadata={"format": "pt"})


def without_a_tensor(where):
    save_bert(where)
    state = load_file(where / "model.safetensors")
    del state["encoder.layer.0.output.dense.weight"]
    save_file(state, where / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    "save, words",
    [
        (other_architecture, "model_type='electra'"),
        (saved_under_a_prefix, "lacks .* of the encoder's tensors"),
        (without_a_tensor, "lacks 1 of the encoder's tensors, first encoder.layer.0"),
        (lambda where: save_bert(where, num_attention_heads=1), "num_attention_heads=1"),
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


@pytest.mark.parametrize(
    "change", [{"reg_tokens": 4}, {"class_token": False, "global_pool": "avg"}, {"depth": 1}]
)
def test_image_weights_of_another_make_are_refused_in_one_line(change, tmp_path):
    sizes = dict(embed_dim=SMALL.embed_dim, depth=SMALL.depth, num_heads=SMALL.num_heads)
    vit = timm.models.vision_transformer.VisionTransformer(
        img_size=SMALL.img_size, in_chans=1, num_classes=0, **sizes | change
    )
    save_file(vit.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match="image_weights: ") as error:
        pretrained.load_vit(MCR(SMALL).image_encoder.vit, str(tmp_path))
    assert "\n" not in str(error.value)
