"""Weight folders of strangers, damaged or of another shape: every tensor comes from the file, or it is refused."""

import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

from mcr_lib.config import MCRConfig
from mcr_lib.encoders import ImageEncoder, ReportEncoder
from mcr_lib.engine import pretrained

from . import Kind, Loss
from .damage import damage, damage_text

SHAPE = dict(img_size=32, patch_size=16, embed_dim=32, depth=1, num_heads=2)
SHAPE |= dict(text_embed_dim=32, text_depth=1, text_num_heads=2, vocab_size=96, max_text_length=16)


class Weights(Kind):
    """What text and images share."""

    def check(self, loaded: torch.nn.Module, path, strip: str = "") -> None:
        """Every tensor of the encoder is one of the file's."""
        given = {name.removeprefix(strip): tensor for name, tensor in load_file(path).items()}
        for name, tensor in loaded.state_dict().items():
            if name not in given or not torch.equal(given[name].float(), tensor.float()):
                if name in given and tensor.isnan().any():
                    continue
                raise Loss(f"{name} is not the file's")


class Text(Weights):
    name, cases = "weights, text", 800

    def __init__(self, folder):
        super().__init__(folder)
        torch.manual_seed(0)
        self.encoder = ReportEncoder(MCRConfig(**SHAPE))
        config = BertConfig.from_dict(self.encoder.bert.config.to_dict())
        BertModel(config, add_pooling_layer=False).save_pretrained(folder / "bert")
        self.whole = {file.name: file.read_bytes() for file in (folder / "bert").iterdir()}

    def case(self, rng):
        place = self.folder / "bert"
        name = rng.choice(("config.json", "model.safetensors", "names"))
        if name == "names":
            tensors = load_file(place / "model.safetensors")
            renamed = rng.choice(list(tensors))
            tensors[f"{renamed}{rng.choice(('.x', '_', ''))}"] = tensors.pop(renamed)
            if rng.random() < 0.5:
                tensors.pop(rng.choice(list(tensors)))
            save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
        else:
            is_text = name == "config.json"
            content = self.whole[name]
            damaged = damage_text(rng, content.decode()) if is_text else damage(rng, content)
            (place / name).write_bytes(damaged)
        try:
            pretrained.load_bert(self.encoder.bert, str(place))
            self.check(self.encoder.bert, place / "model.safetensors")
        finally:
            for name, content in self.whole.items():
                (place / name).write_bytes(content)
        return False


class Images(Weights):
    name, cases = "weights, images", 1_500

    def __init__(self, folder):
        super().__init__(folder)
        torch.manual_seed(0)
        self.encoder = ImageEncoder(MCRConfig(**SHAPE))
        self.vit = self.encoder.vit if hasattr(self.encoder, "vit") else self.encoder
        self.path = folder / "model.safetensors"
        save_file(
            {name: torch.randn_like(x) for name, x in self.vit.state_dict().items()}, self.path
        )
        self.whole = self.path.read_bytes()

    def case(self, rng):
        if rng.random() < 0.3:
            tensors = load_file(self.path)
            gone = tensors.pop(rng.choice(list(tensors)))
            tensors[rng.choice(("reg_token", "x", "norm_pre.weight"))] = gone
            save_file(tensors, self.path)
        else:
            self.path.write_bytes(damage(rng, self.whole))
        try:
            pretrained.load_vit(self.vit, str(self.folder))
            self.check(self.vit, self.path)
        finally:
            self.path.write_bytes(self.whole)
        return False


KINDS = [Text, Images]
