"""The model against timm, transformers and slow loops; the null control; padding; the arms."""

from dataclasses import replace

import pytest
import timm
import torch
from timm.models.vision_transformer import Block
from transformers import BertConfig, BertModel

from kit.patches import removed_mask, unpatchify
from mcr_lib.config import MCRConfig, resolve
from mcr_lib.decoders import BlockAt
from mcr_lib.encoders import ImageEncoder, attention_keys, patchify, take
from mcr_lib.engine.precision import autocast_dtype
from mcr_lib.masking import random_masking
from mcr_lib.model import MCR, Batch

TINY = dict(
    img_size=32,
    patch_size=8,
    embed_dim=24,
    depth=2,
    num_heads=3,
    text_embed_dim=24,
    text_depth=2,
    text_num_heads=3,
    max_text_length=32,
    vocab_size=90,
    special_token_ids=(0, 1, 2, 3, 4),
    mask_token_id=4,
    common_dim=16,
    decoder_embed_dim=24,
    decoder_depth=1,
    decoder_num_heads=3,
)
FRAMEWORKS = ("mcr", "two-stream", "contrastive", "contrastive-masked")


def make(seed=0, **changes) -> MCR:
    torch.manual_seed(seed)
    return MCR(MCRConfig(**(TINY | changes))).eval()


def make_batch(n=5, T=16, seed=0, lengths=None) -> Batch:
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 90, (n, T), generator=g)
    ids[:, 0], ids[:, -1] = 2, 3
    attention = torch.ones(n, T, dtype=torch.long)
    for row, length in enumerate(lengths or [T] * n):
        ids[row, length - 1], ids[row, length:], attention[row, length:] = 3, 0, 0
    return Batch(
        torch.randn(n, 1, 32, 32, generator=g),
        ids,
        attention,
        torch.rand(n, 16, generator=g),
        torch.rand(n, T, generator=g),
    )


def test_image_encoder_equals_timm():
    torch.manual_seed(0)
    encoder = ImageEncoder(MCRConfig(**TINY | {"in_chans": 3})).eval()
    reference = timm.create_model(
        "vit_tiny_patch16_224",
        pretrained=False,
        img_size=32,
        patch_size=8,
        embed_dim=24,
        depth=2,
        num_heads=3,
        num_classes=0,
    ).eval()
    reference.load_state_dict(encoder.vit.state_dict())
    images = torch.randn(3, 3, 32, 32)
    expected = reference.forward_features(images)[:, 1:]
    torch.testing.assert_close(encoder(images), expected, atol=1e-5, rtol=0)
    everything = torch.arange(16).expand(3, 16)
    torch.testing.assert_close(encoder(images, everything), expected, atol=1e-5, rtol=0)


def test_masked_encoding_equals_a_loop_over_the_kept_patches():
    encoder = make().image_encoder
    images = torch.randn(3, 1, 32, 32)
    ids_keep, _ = random_masking(torch.rand(3, 16), 0.5)
    vit = encoder.vit
    for n in range(3):  # cut the patches out by hand, embed each alone, add its position
        row = [vit.cls_token[0, 0] + vit.pos_embed[0, 0]]
        for l in ids_keep[n].tolist():
            y, x = divmod(l, 4)
            patch = images[n : n + 1, :, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8]
            row.append(vit.patch_embed.proj(patch).flatten() + vit.pos_embed[0, 1 + l])
        slow = vit.norm(vit.blocks(torch.stack(row)[None]))[0, 1:]
        torch.testing.assert_close(encoder(images, ids_keep)[n], slow, atol=1e-5, rtol=0)


def test_report_encoder_equals_transformers():
    encoder = make().report_encoder
    reference = BertModel(
        BertConfig(
            vocab_size=90,
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=3,
            intermediate_size=96,
            attn_implementation="eager",
        ),
        add_pooling_layer=False,
    ).eval()
    reference.load_state_dict(encoder.bert.state_dict())
    batch = make_batch(lengths=[16, 9, 4, 12, 3])
    expected = reference(batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
    present = batch.attention_mask.bool()
    actual = encoder(batch.input_ids, batch.attention_mask)
    torch.testing.assert_close(actual[present], expected[present], atol=1e-5, rtol=0)


@pytest.mark.parametrize("alignment", ["mba", "abm"])
@pytest.mark.parametrize("pooling", ["mean", "attention", "max"])
def test_padding_never_changes_a_feature(alignment, pooling):
    model = make(alignment=alignment, pooling=pooling)
    if pooling == "attention":
        torch.nn.init.normal_(model.report_head.aggregate.query)
    report = torch.tensor([[2, 17, 30, 8, 3]])
    alone = model.encode_text(report, torch.ones_like(report))
    pads, zeros = torch.zeros(1, 6, dtype=torch.long), torch.zeros(1, 6, dtype=torch.long)
    for padded, present in (
        ([report, pads], [torch.ones_like(report), zeros]),
        ([pads, report], [zeros, torch.ones_like(report)]),
    ):
        feature = model.encode_text(torch.cat(padded, 1), torch.cat(present, 1))
        torch.testing.assert_close(feature, alone, atol=1e-6, rtol=0)


def test_null_control_linear_and_mean_make_mba_equal_abm():
    for framework in FRAMEWORKS:
        outputs = [
            make(framework=framework, projection="linear", pooling="mean", alignment=a)(
                make_batch()
            )
            for a in ("mba", "abm")
        ]
        torch.testing.assert_close(
            outputs[0].image_features, outputs[1].image_features, atol=1e-6, rtol=0
        )
        torch.testing.assert_close(
            outputs[0].text_features, outputs[1].text_features, atol=1e-6, rtol=0
        )


def test_null_control_holds_under_autocast():
    """The heads are computed in float32: in bf16 the order of map and mean would show in the third digit."""
    f_v, present = torch.randn(6, 9, TINY["embed_dim"]), torch.rand(6, 9) < 0.7
    present[:, 0] = True
    features = []
    for alignment in ("mba", "abm"):
        model = make(projection="linear", pooling="mean", alignment=alignment)
        with torch.autocast("cpu", torch.bfloat16):
            features.append(model.to_common(model.image_head, f_v.bfloat16(), present))
    assert features[0].dtype == torch.float32
    torch.testing.assert_close(*features, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "change", [{"projection": "mlp"}, {"projection": "linear", "pooling": "max"}]
)
def test_a_non_linear_step_makes_mba_differ_from_abm(change):
    mba, abm = make(alignment="mba", **change), make(alignment="abm", **change)
    assert all(torch.equal(a, b) for a, b in zip(mba.parameters(), abm.parameters(), strict=True))
    difference = (mba(make_batch()).image_features - abm(make_batch()).image_features).abs().max()
    assert difference > 1e-4


def test_arms_start_from_the_same_weights_where_they_share_modules():
    whole = make(framework="mcr").state_dict()
    for framework in FRAMEWORKS:
        for key, value in make(framework=framework).state_dict().items():
            assert torch.equal(value, whole[key]), key


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_each_arm_has_its_losses_and_trains_every_parameter(framework):
    model = make(framework=framework).train()
    output = model(make_batch())
    losses = [
        output.contrastive_loss,
        output.image_reconstruction_loss,
        output.text_reconstruction_loss,
    ]
    assert [x is not None for x in losses] == [True] + [framework in ("mcr", "two-stream")] * 2
    sum(x for x in losses if x is not None).backward()
    untrained = [n for n, p in model.named_parameters() if p.grad is None]
    assert untrained == []
    norms = output.image_features.norm(dim=1), output.text_features.norm(dim=1)
    assert all(torch.allclose(n, torch.ones(5)) for n in norms)


def test_what_each_framework_sees():
    """Masked contrast depends on the noise and not on removed pixels; unmasked contrast the other way round."""
    batch = make_batch()
    mask = removed_mask(random_masking(batch.image_noise, 0.5)[1], 16)
    patches = patchify(batch.images, 8)
    changed = Batch(
        unpatchify(torch.where(mask[:, :, None].bool(), patches + 1, patches), 8),
        batch.input_ids,
        batch.attention_mask,
        batch.image_noise,
        batch.text_noise,
    )
    for framework in FRAMEWORKS:
        model = make(framework=framework)
        same = torch.allclose(model(batch).image_features, model(changed).image_features, atol=1e-6)
        assert same == (framework in ("mcr", "contrastive-masked")), framework


def test_a_temperature_at_its_limit_can_come_back():
    """As in CLIP: were the value cut and not the parameter, the gradient beyond the limit would be 0 for good."""
    model = make()
    with torch.no_grad():
        model.log_scale.fill_(6.0)
    features = torch.nn.functional.normalize(torch.randn(2, 8, 16), dim=2)
    model.contrast(*features).backward()
    assert model.logit_scale.item() == pytest.approx(100) and model.log_scale.grad > 0
    before = model.log_scale.item()
    torch.optim.SGD([model.log_scale], lr=0.01).step()
    assert model.log_scale.item() < before


def test_patchify_and_back():
    images = torch.randn(2, 3, 32, 32)
    patches = patchify(images, 8)
    assert patches.shape == (2, 16, 192)
    assert torch.equal(unpatchify(patches, 8, 3), images)
    assert torch.equal(patches[0, 5].view(8, 8, 3), images[0, :, 8:16, 8:16].permute(1, 2, 0))


def test_a_batch_of_one_keeps_its_axes():
    output = make()(make_batch(n=1))
    assert output.image_features.shape == (
        1,
        16,
    ) and output.contrastive_loss.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_base_is_vit_b16_and_bert_base_and_takes_steps():
    """Published sizes: ViT-B/16 at 224 without classifier 85,798,656; BERT-base without pooler 108,891,648."""
    config = resolve("base").model
    model = MCR(config)
    one_channel_less = 2 * 16 * 16 * 768
    assert sum(p.numel() for p in model.image_encoder.parameters()) == 85_798_656 - one_channel_less
    assert sum(p.numel() for p in model.report_encoder.parameters()) == 108_891_648
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 30000, (8, 32), generator=g)
    batch = Batch(
        torch.randn(8, 1, 224, 224, generator=g),
        ids,
        torch.ones_like(ids),
        torch.rand(8, 196),
        torch.rand(8, 32),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    dtype = autocast_dtype("auto", torch.device("cpu"))  # bf16 only where it is not emulated
    seen = []
    for _ in range(2):
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            output = model(batch)
        loss = (
            output.contrastive_loss
            + output.image_reconstruction_loss
            + output.text_reconstruction_loss
        )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append(loss.item())
    assert all(map(torch.isfinite, map(torch.tensor, seen))) and seen[1] < seen[0]


def test_decoding_only_what_is_scored_is_the_same_as_decoding_everything():
    """The shortened last block equals timm's own, values and gradients, in float64, with and without padded keys."""
    torch.manual_seed(0)
    block = BlockAt(24, 3, qkv_bias=True).double()
    x = torch.randn(5, 11, 24, dtype=torch.float64, requires_grad=True)
    ids = torch.rand(5, 11).argsort(1)[:, :4]
    keys = torch.arange(11) < torch.tensor([11, 9, 7, 11, 5])[:, None]
    for mask in (None, attention_keys(keys)):
        whole, short = take(Block.forward(block, x, attn_mask=mask), ids), block(x, ids, mask)
        torch.testing.assert_close(short, whole, rtol=0, atol=1e-12)
        wanted = [x, *block.parameters()]
        for a, b in zip(
            *(torch.autograd.grad(y.square().sum(), wanted) for y in (whole, short)), strict=True
        ):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_image_decoder_equals_one_that_places_and_decodes_every_patch():
    """A slow D_v: patch by patch into reading order, whole timm blocks, then the removed ones."""
    decoder = make(decoder_depth=2).double().image_decoder
    f_v = torch.randn(3, 7, 24, dtype=torch.float64)
    ids_keep, ids_removed = random_masking(torch.rand(3, 16), 9 / 16)
    x = decoder.pos_embed.repeat(3, 1, 1)
    for n in range(3):
        for place, patch in enumerate(ids_keep[n].tolist()):
            x[n, patch] += decoder.embed(f_v[n, place])
        for patch in ids_removed[n].tolist():
            x[n, patch] += decoder.mask_token[0, 0]
    for block in decoder.blocks:
        x = Block.forward(block, x)
    expected = take(decoder.predict(decoder.norm(x)), ids_removed)
    actual = decoder(f_v, ids_keep, ids_removed)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("framework", ["mcr", "two-stream"])
def test_reports_encoded_without_their_padding_change_nothing(framework):
    """Losses and gradients, in float64, with padding on either side; and the encoder never sees a padded token."""
    model, batch = (
        make(framework=framework).double(),
        make_batch(7, lengths=[16, 5, 9, 12, 4, 16, 7]),
    )
    batch.images = batch.images.double()
    for name in ("input_ids", "attention_mask"):  # two reports are padded on the left
        rows = getattr(batch, name)
        rows[1], rows[4] = rows[1].roll(16 - 5), rows[4].roll(16 - 4)
    seen, found = [], []
    model.report_encoder.bert.encoder.layer[0].register_forward_pre_hook(
        lambda layer, inputs: seen.append(inputs[0].shape[:2].numel())
    )
    for places in (None, batch.attention_mask.flatten().nonzero()[:, 0]):
        output = model(replace(batch, places=places))
        losses = [
            output.contrastive_loss,
            output.image_reconstruction_loss,
            output.text_reconstruction_loss,
        ]
        found.append([*losses, *torch.autograd.grad(sum(losses), list(model.parameters()))])
    assert set(seen) == {7 * 16, 16 + 5 + 9 + 12 + 4 + 16 + 7}
    for plain, packed in zip(*found, strict=True):
        torch.testing.assert_close(packed, plain, rtol=0, atol=1e-10)
