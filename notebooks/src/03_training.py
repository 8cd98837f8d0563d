# %% [markdown]
# # 03 · Training
#
# **The question.** Why give one masked input to all tasks, when the usual way has a stream for each?
#
# **What may surprise you.** Where the time goes: the cheap-looking decoder takes a good part of what masking saved.
# And a training that is killed in the middle ends with exactly the same weights.
#
# **How long.** The longest of the notebooks when it has to train first; short when an earlier notebook has trained
# already.
#
# The idea is the first of the paper's two ([arXiv 2312.15840](https://arxiv.org/abs/2312.15840), Fig. 1): "masked data
# is the sole input of both the contrastive and the reconstruction task". What the paper leaves open and what we chose
# stands in [00_start_here](00_start_here.ipynb).

# %% tags=["parameters"]
profile: str = ""  # smoke (seconds), demo (two CPU cores, minutes), base (a GPU); empty: demo if trained
data: str = ""  # data set folder made by `python -m data_prep`; empty: a synthetic one is drawn
out: str = ""  # folder for what the notebooks leave; empty: runs/<profile>
seed: int = 0  # of the initial weights, the order of the pairs and the masks
device: str = "auto"  # auto, cpu, cuda

# %%
from kit.lesson import Lesson

lesson = Lesson.begin("03_training")

# %%
import json
import math

import pandas as pd
import torch
from IPython.display import display

from kit import cost, plotting
from kit.front_end import interactive
from mcr_lib.config import MCRConfig, read_config
from mcr_lib.encoders import patchify, take
from mcr_lib.engine.checkpoint import weights_sha256
from mcr_lib.engine.large_batch import named_losses
from mcr_lib.evaluate import evaluate_run
from mcr_lib.losses import contrastive_loss, image_reconstruction_loss, text_reconstruction_loss
from mcr_lib.masking import random_masking, removed_mask
from mcr_lib.model import MCR
from mcr_lib.tokenizer import load_tokenizer

# %% [markdown]
# We need something trained from the start; how the training went is the last section. A training in the library is a
# call. It reports to anybody who wants to listen: a **callback** is called with each line of the log. This one draws,
# where somebody watches; the trainer itself knows nothing of pictures.


# %%
class Live:
    """A callback that shows the losses while they fall, below the cell that trains."""

    handle = None

    def __call__(self, trainer, record):
        if interactive():
            picture = plotting.loss_curves({"so far": trainer.log})
            self.handle = self.handle or display(picture, display_id=True)
            self.handle.update(picture)


# %% [markdown]
# The next cell trains the paper's model in the size of the profile, or finds it where an earlier notebook left it.

# %%
run = lesson.train(callbacks=[Live()])
model, pairs, image_features, text_features = lesson.features(run, "test")
tokenizer = load_tokenizer(run / "tokenizer", local=True)
batch = pairs.batch(torch.arange(min(16, len(pairs))).numpy(), lesson.device)

# %% [markdown]
# ## 1. Why one masked input for both tasks?
#
# Two tasks shape the encoders. The **contrastive** task compares a whole image with a whole report: does this belong
# to that? **Reconstruction** hides a part and asks for it back. The obvious way to have both is **two streams**:
# encode everything once whole, once masked. The paper's way is one stream, always masked, which serves both.
#
# **Picture.** The two frameworks with a pair of the test split. E are the encoders, D the decoders, of the image (v)
# and the report (r). Boxes with the same name are the same weights.

# %%
ids_keep, ids_removed = random_masking(batch.image_noise, model.config.mask_ratio)
mask = removed_mask(ids_removed, model.config.num_patches)  # N, L: 1 = hidden
masked_ids, positions, labels = model.mask_report(batch)
words, hidden_words = (
    tokenizer.convert_ids_to_tokens(ids[0, 1:].tolist()) for ids in (batch.input_ids, masked_ids)
)


def shows_well(start: int) -> tuple[bool, int]:  # of four tokens in the picture one is hidden
    whole_words = sum(word.isalpha() for word in words[start : start + 4])
    return hidden_words[start : start + 4].count("[MASK]") == 1, whole_words


start = max(range(len(words) - 4), key=shows_well)

# %%
whole = plotting.to_gray(batch.images)
masked = plotting.hide(batch.images, mask, model.config.patch_size)
figure = plotting.frameworks(
    whole[0], masked[0], words[start : start + 4], hidden_words[start : start + 4]
)
lesson.figure(
    figure,
    "frameworks",
    "Two streams (the paper's Fig. 1a) and one masked stream (Fig. 1b), drawn by us",
)

# %% [markdown]
# Count the arrows into the E boxes: two streams send four inputs through the encoders, MCR two, of which the image is
# half as long. In return, MCR must recognise a pair from what was left of it.
#
# **By hand.** The two-stream framework, written down with the parts of our trained MCR model. The decoders answer only
# for what is scored: hidden patches and masked words.

# %%
with torch.inference_mode():
    S_v = model.encode_image(batch.images)  # whole
    S_r = model.encode_text(batch.input_ids, batch.attention_mask)
    f_v = model.image_encoder(batch.images, ids_keep)  # masked
    f_r = model.report_encoder(masked_ids, batch.attention_mask)
    pixels = model.image_decoder(f_v, ids_keep, ids_removed)
    guesses = model.report_decoder(f_r, batch.attention_mask, positions)
    patches = take(patchify(batch.images, model.config.patch_size), ids_removed)  # the hidden ones
    two_streams = {
        "contrastive_loss": contrastive_loss(S_v, S_r, model.log_scale.exp()),
        "image_reconstruction_loss": image_reconstruction_loss(pixels, patches),
        "text_reconstruction_loss": text_reconstruction_loss(guesses, labels),
    }

# %% [markdown]
# **Check.** In the library a framework is a word in the configuration, not another class. The same weights in a model
# that says `two-stream` give the same three numbers:

# %%
twin = MCR(model.config.model_copy(update={"framework": "two-stream"})).to(lesson.device).eval()
twin.load_state_dict(model.state_dict())
with torch.inference_mode():
    one_stream, library = named_losses(model(batch)), named_losses(twin(batch))
for name, value in two_streams.items():
    torch.testing.assert_close(value, library[name])
print("the same numbers")

# %% [markdown]
# **Exercise.** You have now three losses in one stream and three in two. Predict which of them differ, before you
# look.

# %% tags=["solution"]
as_table = {
    name: {key: float(value) for key, value in losses.items()}
    for name, losses in {"one stream": one_stream, "two streams": library}.items()
}
display(pd.DataFrame(as_table).round(4))
# Reconstruction has a masked input in both. Only what the contrastive task sees is another.

# %% [markdown]
# **Claim:** With the same weights, one and two streams differ in the contrastive loss only.

# %%
same = {name: torch.equal(one_stream[name], library[name]) for name in library}
lesson.claim(
    "With the same weights, one and two streams differ in the contrastive loss only.",
    [name for name, equal in same.items() if not equal] == ["contrastive_loss"],
)

# %% [markdown]
# ## 2. Where does the time go?
#
# Let us count instead of guessing. A **FLOP** is one multiplication or addition; matrix products are nearly all of a
# transformer's. PyTorch can count them without doing them: tensors on the device `meta` have shapes, but no numbers.
# So even a small laptop can tell what the full-size model of the `base` profile costs: ViT-B/16, a vision transformer
# with patches of 16 × 16 pixels, for images of 224 × 224, and BERT-base for the reports.

# %%
with torch.device("meta"):
    c = MCRConfig()  # ViT-B/16 at 224 and BERT-base
    full = MCR(c)
    image = torch.empty(1, c.in_chans, c.img_size, c.img_size)
    token_ids = torch.empty(1, c.max_text_length).long()
    all_patches = torch.empty(1, c.num_patches).long()
    num_hidden = round(c.num_patches * c.mask_ratio)
    half, hidden = all_patches.split([c.num_patches - num_hidden, num_hidden], dim=1)
    seen_v = torch.empty(*half.shape, c.embed_dim)
    seen_r = torch.empty(*token_ids.shape, c.text_embed_dim)
    masked_tokens = torch.empty(1, round((c.max_text_length - 2) * c.mlm_probability)).long()

# %%
parts = {
    "E_v, whole": cost.flops(full.image_encoder, image),
    "E_v, masked": cost.flops(full.image_encoder, image, half),
    "D_v": cost.flops(full.image_decoder, seen_v, half, hidden),
    "E_r, whole": cost.flops(full.report_encoder, token_ids, token_ids),
    "D_r": cost.flops(full.report_decoder, seen_r, token_ids, masked_tokens),
}
# a [MASK] is a token like any other: the report stays as long
parts["E_r, masked"] = parts["E_r, whole"]
pd.Series(
    {name: value / 1e9 for name, value in parts.items()}, name="GFLOP for one pair, forward"
).round(2).to_frame()

# %% [markdown]
# Half the patches cost half the image encoder, even a little less, because attention compares each patch with each. A
# masked report costs as much as a whole one.
#
# **By hand.** A check of the counter for one encoder. Per block and token: queries, keys, values and output are
# products with 4 D², the two layers of the perceptron with 8 D² weights, and attention needs 2 D products with each of
# the L other tokens. Each product is 2 FLOPs.


# %%
def encoder_flops(L: int, D: int, depth: int, pixels_in: int) -> int:
    tokens = L + 1  # the patches and the class token
    block = 2 * tokens * (4 * D * D + 8 * D * D) + 2 * tokens * 2 * D * tokens
    all_patches_embedded = 2 * c.num_patches * pixels_in * D  # before it is chosen which ones stay
    return depth * block + all_patches_embedded


by_hand = [
    encoder_flops(L, c.embed_dim, c.depth, c.patch_size**2 * c.in_chans)
    for L in (c.num_patches, half.shape[1])
]

# %% [markdown]
# **Check:**

# %%
assert by_hand == [parts["E_v, whole"], parts["E_v, masked"]]
print("not one operation off:", by_hand)

# %% [markdown]
# Now put the parts together as each framework needs them. Two more stand beside: *contrastive*, the plain baseline
# without reconstruction, and *contrastive-masked*, the same on masked input. Each way of training that is compared is
# called an **arm**.
#
# **Picture.** One pair, forward, at the size of the `base` profile.

# %%
needs = {
    "two-stream": list(parts),
    "mcr": ["E_v, masked", "D_v", "E_r, masked", "D_r"],
    "contrastive": ["E_v, whole", "E_r, whole"],
    "contrastive-masked": ["E_v, masked", "E_r, masked"],
}
costs = {arm: {part: parts[part] / 1e9 for part in chosen} for arm, chosen in needs.items()}
figure = plotting.stacked_costs(
    costs, "GFLOP for one pair, forward pass", "ViT-B/16 at 224 and BERT-base"
)
lesson.figure(figure, "flops", "Operations by part, counted at the size of the base profile")

# %%
image_side = {
    arm: sum(v for part, v in chosen.items() if part[2] == "v") for arm, chosen in costs.items()
}
print(
    "image side, in passes of a whole-image encoder: "
    + ", ".join(
        f"{arm} {value / costs['contrastive']['E_v, whole']:.2f}"
        for arm, value in image_side.items()
    )
)
share = lesson.number(
    "decoder_share",
    costs["mcr"]["D_v"] / image_side["mcr"],
    "Share of the image decoder in MCR's image side, FLOPs, base profile",
)
print(f"the image decoder's share in MCR's image side: {share:.0%}")

# %% [markdown]
# So the decoder eats a good part of what masking has saved, although ours has only half of the blocks of MAE, the
# masked autoencoder it is modelled on. The reason is in its input: all its blocks but the last work on *all* patches,
# seen and hidden. The last looks at all of them, too, but is computed at the hidden ones alone, because nobody scores
# the others. The report decoder does likewise: its last block, at this size its only one, answers at the masked tokens
# alone.
#
# **Claim:** At the base size, MCR needs less than half of the two-stream framework's operations on the image side.
#
# **Claim:** The image decoder is more than a fifth of MCR's image side.
#
# **Claim:** Against contrastive learning on whole images MCR saves on the image side, not on the report side.

# %%
lesson.claim(
    "At the base size, MCR needs less than half of the two-stream framework's operations on the image side.",
    image_side["mcr"] < image_side["two-stream"] / 2,
)
lesson.claim("The image decoder is more than a fifth of MCR's image side.", share > 0.2)
lesson.claim(
    "Against contrastive learning on whole images MCR saves on the image side, not on the report side.",
    image_side["mcr"] < image_side["contrastive"] and "D_r" in costs["mcr"],
)

# %% [markdown]
# Operations are not yet seconds. The next cell measures a training step (forward and backward) of each framework on
# this machine, at the size of the profile: the time, and the bytes that must be kept between forward and backward. The
# latter is what fills a GPU. All are computed in float32; a training takes bfloat16 where the device has matrix units
# for it (the key `precision`). The paper's claim of less memory and time is tested with more care by
# `python -m benchmarks.study`, which measures each framework in a process of its own.


# %%
def step(arm: MCR):
    sum(named_losses(arm(batch)).values()).backward()


measured = {}
for name in needs:
    arm = MCR(model.config.model_copy(update={"framework": name})).to(lesson.device)
    measured[name] = {
        "milliseconds": 1000 * cost.seconds(step, arm),
        "MB kept": cost.kept_bytes(arm, arm, batch) / 1e6,
        "pairs": len(batch.images),
    }
measured = pd.DataFrame(measured).T
measured["pairs"] = measured["pairs"].astype(int)
measured["time, two-stream = 1"] = (
    measured["milliseconds"] / measured.loc["two-stream", "milliseconds"]
)
measured["memory, two-stream = 1"] = measured["MB kept"] / measured.loc["two-stream", "MB kept"]
lesson.table(
    measured.round(2),
    "step_cost",
    "A training step of each framework on this machine, at the profile's size",
)

# %% [markdown]
# **Claim:** A step of MCR keeps less memory than a step of the two-stream framework.
#
# **Claim:** A step of MCR takes less time than a step of the two-stream framework.

# %%
lesson.claim(
    "A step of MCR keeps less memory than a step of the two-stream framework.",
    measured.loc["mcr", "MB kept"] < measured.loc["two-stream", "MB kept"],
)
lesson.claim(
    "A step of MCR takes less time than a step of the two-stream framework.",
    measured.loc["mcr", "milliseconds"] < measured.loc["two-stream", "milliseconds"],
    needs="demo",
)

# %% [markdown]
# **Exercise.** Two related projects, MaCo and MRM, use a decoder of 4 blocks, 768 wide. Predict its share in the image
# side, then open the solution. What would you change to make it cheap again?

# %% tags=["solution"]
with torch.device("meta"):
    wide = MCR(MCRConfig(decoder_embed_dim=768, decoder_num_heads=6))
wide_decoder = cost.flops(wide.image_decoder, seen_v, half, hidden)
print(f"{wide_decoder / (wide_decoder + parts['E_v, masked']):.0%} of the image side")
assert wide_decoder > 2 * parts["D_v"]
# Fewer or narrower blocks; or fewer patches, by decoding only a part of the hidden ones. What that changes in the
# result would have to be measured.

# %% [markdown]
# ## 3. What do the losses reward?
#
# What a training makes small is the sum of the three losses, each with its weight, which is 1 unless one says otherwise
# (the keys that end in `_weight`). A loss teaches by its **gradient**: what it would change, and how strongly. For the
# contrastive loss it can be read as two forces. Take the similarities of one image with all reports, sharpened by the
# **temperature** (divided by it; it is learned), as shares that add up to one. The loss wants the share of the true
# report to be 1 and all others 0.
#
# **By hand.** So the gradient must be the shares, minus 1 on the diagonal; once for image → report, once for report →
# image, and averaged over pairs.

# %%
scale = model.log_scale.exp().detach()
S_v, S_r = image_features[:16].to(lesson.device), text_features[:16].to(lesson.device)
logits = scale * S_v @ S_r.T
truth = torch.eye(len(logits), device=logits.device)
force = ((logits.softmax(dim=1) - truth) + (logits.softmax(dim=0) - truth)) / (2 * len(logits))

# %% [markdown]
# **Check** against PyTorch's own derivative of the library's loss. To get at the matrix, we hand it over as if it were
# the image features, with reports that are the unit matrix:

# %%
asked = logits.clone().requires_grad_()
contrastive_loss(asked, truth, torch.tensor(1.0)).backward()
torch.testing.assert_close(asked.grad, force)
print("the same forces")

# %% [markdown]
# **Picture.** Left the cosines of the trained model, right the force on each: what is negative (purple) is raised by
# training, what is positive (orange) is pushed down. The colours on the right are scaled to the wrong pairs.

# %%
lesson.figure(
    plotting.forces(S_v @ S_r.T, force),
    "forces",
    "Cosines of the trained model, and what training would raise and lower; true pairs are framed",
)

# %% [markdown]
# The darkest orange spots are the **hard negatives**: wrong reports that look right. While a model knows nothing, all
# wrong pairs are pushed alike; once it knows much, a pair that is told apart has no force left. That is why larger
# batches help: they hold more hard negatives. So a step that does not fit into the memory must not simply be cut into
# smaller batches. The key `accumulation` does it otherwise: first the features of all parts are computed, then all
# pairs of the step are contrasted, then each part is run once more to carry its share of the gradient back to the
# weights.
#
# **By hand.** The image reconstruction loss. Each patch of the *original* is brought to mean 0 and variance 1, so that
# texture counts and brightness does not; the error is averaged over *hidden* patches only, row by row in `mask`.

# %%
original = patchify(batch.images, model.config.patch_size)
target = (original - original.mean(2, keepdim=True)) / (original.var(2, keepdim=True) + 1e-6).sqrt()
squared_error = (pixels.flatten(0, 1) - target[mask == 1]) ** 2  # N·hidden patches, pixels
by_hand = squared_error.mean()

# %% [markdown]
# **Check:**

# %%
torch.testing.assert_close(by_hand, image_reconstruction_loss(pixels, patches))
print(f"the same loss on hidden patches: {float(by_hand):.3f}")

# %% [markdown]
# What it would say of patches that were seen is no part of the loss: nobody asks the decoder to repeat what it was
# shown, so it is not even computed.
#
# **Exercise.** A decoder that always answers with a flat gray patch: what is its loss? And one that answers with the
# right texture at half the contrast? Predict both.

# %% tags=["solution"]
flat = image_reconstruction_loss(torch.zeros_like(patches), patches)
half_contrast = image_reconstruction_loss(take(target, ids_removed) / 2, patches)
print(f"flat: {float(flat):.3f}, half the contrast: {float(half_contrast):.3f}")
assert 0.9 < flat <= 1 and half_contrast < 0.26
# A flat answer misses all of the variance, 1 (less where the patch is nearly flat itself); half the contrast misses ¼.

# %% [markdown]
# ## 4. Does it learn?
#
# Let us watch a small one. We train it twice: once in one go, and once with a power cut in the middle, which is a
# callback, too. `lesson.train` finds what the cut one left, and goes on from its last **checkpoint**, the state that a
# training writes to the disk now and then. (When this notebook is run again, both are there already, and nothing is
# cut.)


# %%
class PowerCut(Exception):
    pass


def pull_the_plug(trainer, record):
    if trainer.step >= 6:
        raise PowerCut


# %%
short = dict(
    steps=12, batch_size=16, log_every=2, checkpoint_every=4, depth=1, text_depth=1, compile=False
)
whole = lesson.train("03-whole", callbacks=[Live()], **short)
try:
    lesson.train("03-cut", callbacks=[pull_the_plug], **short)
except PowerCut:
    print("the power is cut at step 6; the last checkpoint is of step 4")
resumed = lesson.train("03-cut", **short)

# %% [markdown]
# **Check.** The weights of both as one number, a checksum over every bit:

# %%
print(weights_sha256(whole)[:16], weights_sha256(resumed)[:16])

# %% [markdown]
# **Claim:** A training that was cut and resumed ends with the same weights as one that was not.

# %%
lesson.claim(
    "A training that was cut and resumed ends with the same weights as one that was not.",
    weights_sha256(whole) == weights_sha256(resumed),
)

# %% [markdown]
# This works because nothing depends on the state of a random generator: which pairs a step sees, and which parts of
# them are hidden, follows from the seed, the epoch and the pair ([01_masking](01_masking.ipynb)).
#
# **Picture.** The losses of the real training, in nats (the unit of the natural logarithm), read from the run folder's
# `metrics.jsonl`, with what guessing would cost.

# %%
log = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
config = read_config(run / "config.yaml")
guessing = {
    "contrastive_loss": math.log(config.train.batch_size),
    "image_reconstruction_loss": 1.0,
    "text_reconstruction_loss": math.log(config.model.vocab_size),
}
lesson.figure(
    plotting.loss_curves({"MCR": log}, guessing),
    "losses",
    "The three losses while training, and guessing",
)

# %% [markdown]
# **Claim:** All three losses fall.
#
# **Claim:** All three losses end below guessing.

# %%
lesson.claim("All three losses fall.", all(log[-1][name] < log[0][name] for name in guessing))
lesson.claim(
    "All three losses end below guessing.",
    all(log[-1][name] < guessing[name] for name in guessing),
    needs="demo",
)

# %% [markdown]
# **Picture.** What the decoder makes of hidden patches of test images. Read the titles: the model predicts texture
# only. For the last column each patch was lent the brightness and contrast of the *original*, which the model never
# knew, so that column flatters.

# %%
figure = plotting.reconstruction(
    batch.images[:3], mask[:3], pixels[:3], model.config.patch_size, model.config.norm_pix
)
lesson.figure(
    figure,
    "reconstruction",
    "Three test images; the last column borrows the original's patch statistics",
)

# %% [markdown]
# And the words, for one report:

# %%
n = int(batch.attention_mask[0].sum())
best = tokenizer.convert_ids_to_tokens(guesses[0].argmax(-1).tolist())
guessed = {
    p: word
    for p, word, label in zip(positions[0].tolist(), best, labels[0].tolist(), strict=True)
    if label != -100
}  # a short report has fewer hidden words than the longest of the batch
figure = plotting.guesses(tokenizer.convert_ids_to_tokens(batch.input_ids[0, :n].tolist()), guessed)
lesson.figure(figure, "guesses", "A test report whose hidden words were guessed by the model")

# %% [markdown]
# **Retrieval.** The task that matters: is the report of a test image among the first K of all reports? *R@K* is the
# share of queries for which it is. How this is counted, and how far the counting moves the number, is the topic of
# [04_retrieval_evaluation](04_retrieval_evaluation.ipynb); here only that it stands clear of chance or not.

# %%
result = evaluate_run(run, lesson.data, device=lesson.device, command="notebook 03_training")
lesson.figure(
    plotting.recalls({"MCR + MbA": result}), "recall", "Retrieval on the test split, 95 % intervals"
)

# %%
keys = [
    f"{direction}_R@{k}" for direction in ("image_to_text", "text_to_image") for k in (1, 5, 10)
]
rows = {
    key: {
        "measured": result[key],
        "low": result["interval"][key][0],
        "high": result["interval"][key][1],
        "chance": result["chance"][key],
    }
    for key in keys
}
lesson.table(
    pd.DataFrame(rows).T.round(1),
    "recall",
    "Retrieval in percent, protocol text-identical, 95 % interval",
)

# %% [markdown]
# Each row is a percentage with its interval: were other patients in the test split, it could as well be anywhere in
# there. Compare the lower end with chance, not the middle.
#
# **Claim:** After training the right report is found more often than by chance, by the lower end of the interval.

# %%
lesson.claim(
    "After training the right report is found more often than by chance, by the lower end of the interval.",
    all(rows[key]["low"] > rows[key]["chance"] for key in keys if key.endswith("@10")),
    needs="demo",
)

# %% [markdown]
# **Exercise.** Which of the three losses is the first to be clearly below guessing, which is the last, and why? Write
# down your prediction; the solution reads it from the log (`None`: not within this training).

# %% tags=["solution"]
first_below = {
    name: next((r["step"] for r in log if r[name] < 0.9 * level), None)
    for name, level in guessing.items()
}
print(first_below)
# The words have an easy beginning: to know that "no" is often followed by "acute" takes no image. Telling pairs apart
# takes two encoders that agree on something, and no one has told them on what.

# %% [markdown]
# ## Summary
#
# * One stream: the masked input serves contrast and reconstruction. The saving against two streams is large; against
#   plain contrastive training it is moderate, because nearly all of the decoder works on all patches.
# * The contrastive loss pushes hard negatives down and the true pair up; the reconstruction loss counts hidden patches
#   only.
# * Whether reconstruction *helps* retrieval is another question than what it costs. One run cannot answer it: that
#   takes all arms and several seeds (`python -m benchmarks.study`). FLIP, which masks images in contrastive training,
#   has seen no gain from it in a like setting.
