# %% [markdown]
# # 02 · Map first or pool first?
#
# **The question.** An image has many local features, one for each patch, but retrieval needs one vector. Does it
# matter whether we map them to the common space and then average (**MbA**, mapping before aggregation), or average and
# then map (**AbM**)?
#
# **What may surprise you.** With a linear map it does not matter at all: both are the same function, to the last digit
# that floating point keeps. Where one averages, all of the difference comes from one curve.
#
# **How long.** Two models are trained, if no earlier notebook has; all else is short.
#
# MbA is the second idea of the paper ([arXiv 2312.15840](https://arxiv.org/abs/2312.15840), Fig. 2), which says that
# it aligns images and reports better. How map and aggregation look we could not read; ours stand in
# [00_start_here](00_start_here.ipynb). The aggregation is the mean unless a profile says otherwise: `demo` trains with
# the maximum. To understand the order, we take the mean in sections 1 and 2 in any case, with the weights as trained.

# %% tags=["parameters"]
profile: str = ""  # smoke (seconds), demo (two CPU cores, minutes), base (a GPU); empty: demo if trained
data: str = ""  # data set folder made by `python -m data_prep`; empty: a synthetic one is drawn
out: str = ""  # folder for what the notebooks leave; empty: runs/<profile>
seed: int = 0  # of the initial weights, the order of the pairs and the masks
device: str = "auto"  # auto, cpu, cuda

# %%
from kit.lesson import Lesson

lesson = Lesson.begin("02_mba_vs_abm")

# %%
import copy

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image

from kit import one_patch, plotting
from kit.boxes import bootstrap_mean, boxes_on_square, patch_word_table
from mcr_lib import grounding
from mcr_lib.evaluate import evaluate_run
from mcr_lib.heads import AlignmentHead
from mcr_lib.losses import contrastive_loss
from mcr_lib.model import MCR
from mcr_lib.retrieval import query_ranks

# %%
run_mba = lesson.train()
run_abm = lesson.train("mcr-abm", alignment="abm")
model, pairs, image_mba, text_mba = lesson.features(run_mba)
abm, _, image_abm, text_abm = lesson.features(run_abm)

# %% [markdown]
# The two models differ in one word of their configuration. They have the same weights to learn, and they started from
# the same:


# %%
def start(alignment: str) -> dict:
    torch.manual_seed(lesson.seed)
    return MCR(model.config.model_copy(update={"alignment": alignment})).state_dict()


starts = start("mba"), start("abm")
print(f"{sum(weight.numel() for weight in starts[0].values()):,} weights")

# %% [markdown]
# **Claim:** Both models have the same weights at the start.

# %%
lesson.claim(
    "Both models have the same weights at the start.",
    starts[0].keys() == starts[1].keys()
    and all(torch.equal(starts[0][k], starts[1][k]) for k in starts[0]),
)

# %% [markdown]
# ## 1. When is it the same?
#
# **Picture.** Local features of a test image, on their way to one vector, in both orders. Colours are numbers: orange
# positive, purple negative.

# %%
batch = pairs.batch(np.arange(min(16, len(pairs))), lesson.device)
with torch.inference_mode():
    f = model.image_encoder(batch.images).float()  # N, L, D
head = model.image_head.map  # F: linear, GELU, linear
one = f[0]
with torch.inference_mode():
    figure = plotting.mba_abm(one, head(one), head(one).mean(0), one.mean(0), head(one.mean(0)))
lesson.figure(figure, "orders", "One image's local features, mapped before and after the mean")

# %% [markdown]
# Look at the two strips on the right: similar, but not equal. Now the same with a **linear** F, that is, a matrix W
# and a vector b:
#
# mean(F(f)) = mean(f Wᵀ + b) = mean(f) Wᵀ + b = F(mean(f))
#
# A mean is a sum, and a matrix may be drawn out of a sum. Nothing else was used, so it holds for any W, any image,
# before and after training.
#
# **By hand**, for both kinds of map:

# %%
torch.manual_seed(lesson.seed)
width, common = f.shape[2], model.config.common_dim
linear = torch.nn.Linear(width, common)
mlp = torch.nn.Sequential(
    torch.nn.Linear(width, width), torch.nn.GELU(), torch.nn.Linear(width, common)
)
f = f.cpu()
with torch.inference_mode():
    for name, F_map in (("linear", linear), ("mlp", mlp)):
        difference = F_map(f).mean(1) - F_map(f.mean(1))
        size = F_map(f).mean(1).std()
        print(
            f"{name:7s} largest difference {difference.abs().max():.1e} where values are near {size:.1e}"
        )

# %% [markdown]
# **Check** against the library's heads, for each map with each way to aggregate. `max` takes the largest value of each
# channel, `attention` weights the local features by a learned query. The number is the largest difference between MbA
# and AbM with the same weights, relative to the size of the values.


# %%
def head_of(projection: str, pooling: str, alignment: str) -> AlignmentHead:
    settings = {"projection": projection, "pooling": pooling, "alignment": alignment}
    torch.manual_seed(lesson.seed)
    return AlignmentHead(width, model.config.model_copy(update=settings))


@torch.inference_mode()
def difference(projection: str, pooling: str) -> float:
    heads = [head_of(projection, pooling, alignment) for alignment in ("mba", "abm")]
    heads[1].map.load_state_dict(heads[0].map.state_dict())
    if pooling == "attention":  # as if it had learned to look for something
        for head in heads:
            head.aggregate.query.normal_(generator=torch.Generator().manual_seed(1)).mul_(3)
    S_mba, S_abm = (head(f) for head in heads)
    return float((S_mba - S_abm).abs().max() / S_mba.std())


# %%
poolings = ("mean", "max", "attention")
differences = pd.DataFrame(
    {
        projection: {pooling: difference(projection, pooling) for pooling in poolings}
        for projection in ("linear", "mlp")
    }
)
lesson.table(
    differences.map("{:.1e}".format),
    "differences",
    "Largest difference of MbA and AbM with equal weights",
)

# %% [markdown]
# One cell of six is zero (what is left is rounding): linear with mean. Everything else makes a difference.
#
# **Claim:** With a linear map and the mean, MbA and AbM are the same function.
#
# **Claim:** With a perceptron, or with another aggregation than the mean, they are not.

# %%
lesson.claim(
    "With a linear map and the mean, MbA and AbM are the same function.",
    differences.loc["mean", "linear"] < 1e-5,
)
others = [
    differences.loc[pooling, projection]
    for projection in differences
    for pooling in differences.index
    if (pooling, projection) != ("mean", "linear")
]
lesson.claim(
    "With a perceptron, or with another aggregation than the mean, they are not.",
    min(others) > 1e-3,
)

# %% [markdown]
# This gives the study (`python -m benchmarks.study`, which compares the two ways over several seeds) its **null
# control**: an experiment whose true effect is known to be zero. Models with a linear map and the mean, trained in both
# orders, must retrieve equally well. If they did not, the experiment would be wrong, not the theory.
#
# **Exercise.** The attention query starts at zero. What is the difference for linear + attention at the very start of
# a training? And after the first step?

# %% tags=["solution"]
with torch.inference_mode():
    first_map, first_pool = (
        head_of("linear", "attention", alignment) for alignment in ("mba", "abm")
    )
    first_pool.map.load_state_dict(first_map.map.state_dict())
    at_start = float((first_map(f) - first_pool(f)).abs().max())
print(f"{at_start:.1e}")
assert at_start < 1e-5
# A query of zero gives all local features the same weight: attention starts as the mean. After one step the query
# is no longer zero, and as it looks at mapped features here and unmapped ones there, the two orders part.

# %% [markdown]
# ## 2. What does the curve change?
#
# Our F is linear, then the curve GELU, then linear. Only the curve is not linear, so only there the order can matter.
# GELU lets positive values through and suppresses negative ones.
#
# **By hand.** What enters the hidden units (the outputs of the first linear layer), and the two orders at the curve:

# %%
first, curve, second = head
with torch.inference_mode():
    inputs = first(one)  # L, D: patches, hidden units
    mean_of_gelus, gelu_of_mean = curve(inputs).mean(0), curve(inputs.mean(0))
    by_hand = second(mean_of_gelus), second(gelu_of_mean)

# %% [markdown]
# **Check** against the library's head in both orders: the rest is linear, so the order after the curve is free.

# %%
library = copy.deepcopy(model.image_head)
library.aggregate.pooling = "mean"
with torch.inference_mode():
    for library.alignment, feature in (("mba", by_hand[0]), ("abm", by_hand[1])):
        torch.testing.assert_close(feature, library(one[None])[0], atol=1e-4, rtol=1e-3)
print("the same features")

# %% [markdown]
# **Picture.** Left the unit with the largest difference: each blue dot is a patch. Right all units.

# %%
unit = int((mean_of_gelus - gelu_of_mean).abs().argmax())
lesson.figure(
    plotting.gelu_gap(inputs, unit),
    "gelu",
    "Mean of the curve against curve of the mean, real hidden units",
)

# %% [markdown]
# A unit that is strongly on for a few patches and off for the others may have a mean near or below zero. AbM then hears
# next to nothing; MbA still hears those few. A small finding in a large image is such a case: this is the reason to
# hope for something from MbA.
#
# **Claim:** For most hidden units the mean of the curve lies above the curve of the mean.

# %%
above = float((mean_of_gelus > gelu_of_mean - 1e-6).float().mean())
print(f"{above:.0%} of the units")
lesson.claim(
    "For most hidden units the mean of the curve lies above the curve of the mean.", above > 0.5
)

# %% [markdown]
# The same seen from behind, by the **gradient** that each patch's local feature gets from the contrastive loss: what
# this patch is told to change. Both heads aggregate by the mean here, too.


# %%
def told_to_each_patch(model) -> torch.Tensor:
    head = copy.deepcopy(model.image_head)
    head.aggregate.pooling = "mean"
    local = model.image_encoder(batch.images).float().detach().requires_grad_()  # N, L, D
    S_v = F.normalize(head(local), dim=-1)
    S_r = model.encode_text(batch.input_ids, batch.attention_mask).detach()
    contrastive_loss(S_v, S_r, model.log_scale.exp().detach()).backward()
    return local.grad


gradients = {"MbA": told_to_each_patch(model), "AbM": told_to_each_patch(abm)}
unlike = {
    name: float((g - g.mean(1, keepdim=True)).norm() / g.norm()) for name, g in gradients.items()
}
print(
    {name: f"{value:.1%} of the gradient differs between patches" for name, value in unlike.items()}
)

# %% [markdown]
# **Claim:** Under AbM all patches of an image get the same gradient from the contrastive loss.
#
# **Claim:** Under MbA each patch gets its own.

# %%
lesson.claim(
    "Under AbM all patches of an image get the same gradient from the contrastive loss.",
    unlike["AbM"] < 1e-5,
)
lesson.claim("Under MbA each patch gets its own.", unlike["MbA"] > 1e-3)

# %% [markdown]
# **Picture.** The part of each patch's gradient that is its own, for some test images with MbA. With AbM there is
# nothing to draw.

# %%
own = (gradients["MbA"] - gradients["MbA"].mean(1, keepdim=True)).norm(dim=2)  # N, L
side = round(own.shape[1] ** 0.5)
grays = plotting.to_gray(batch.images)
above_least = (own - own.amin(1, keepdim=True)).reshape(-1, side, side).cpu()
figure = plotting.glows(grays[:5], above_least[:5], pairs.table["pair_id"][:5].tolist())
lesson.figure(
    figure, "gradients", "How far each patch's gradient differs from the mean of all patches, MbA"
)

# %% [markdown]
# **Exercise.** Another aggregation: `max`, with MbA. How many of the patches of an image get any gradient at all, at
# most?

# %% tags=["solution"]
local = f[:1].clone().requires_grad_()
head_of("mlp", "max", "mba")(local).sum().backward()
reached = int((local.grad.abs().sum(2) > 0).sum())
print(f"{reached} of {local.shape[1]} patches; there are {common} channels")
assert reached <= min(common, local.shape[1])
# Each channel of the common space listens to one patch only, the one with its largest value.

# %% [markdown]
# ## 3. One patch that knows
#
# A small lesion is seen by one patch; an enlarged heart by many. When does the order decide whether it is *found*? In
# a radiograph nobody knows which patch sees what. So we draw local features where we know it: 64 patches of noise, and
# a finding that either one of them sees, or all of them a little. Heads of both orders are trained on these, nothing
# else, and asked which of 500 reports belongs to an image (`kit/one_patch.py`). Predict: for which aggregation will the
# order matter?

# %%
found = one_patch.compare(seeds=3)

# %% [markdown]
# **Picture.** A mark for each seed.

# %%
lesson.figure(
    plotting.two_orders(found),
    "one_patch",
    "Own report on top, heads alone; who sees the finding is known",
)

# %% [markdown]
# **Claim:** If one patch sees the finding and the aggregation chooses (maximum, attention), MbA finds more.
#
# **Claim:** With the mean, MbA finds no more, whoever sees it.

# %%
gain = {
    (seen_by, pooling): np.subtract(orders["mba"], orders["abm"])
    for seen_by, poolings in found.items()
    for pooling, orders in poolings.items()
}
lesson.claim(
    "If one patch sees the finding and the aggregation chooses (maximum, attention), MbA finds more.",
    min(gain["one patch", pooling].min() for pooling in ("max", "attention")) > 10,
)
lesson.claim(
    "With the mean, MbA finds no more, whoever sees it.",
    max(gain[seen_by, "mean"].mean() for seen_by in found) < 2,
)

# %% [markdown]
# *Why it must help there.* Attention and the maximum choose: attention the patch with the highest score, the maximum
# the largest value in each channel. With AbM they choose among the features as they come. A finding is a vector that
# may point anywhere, so no channel and no fixed direction marks the patch that has it, and among 64 patches some noise
# is nearly always larger. With MbA the map comes first, and it can learn units that light up for a patch with a
# finding, whichever it is. Now choosing is easy.
#
# *Why it cannot help here.* The mean does not choose. All that is linear commutes with it (section 1); what is left is
# the curve, and a curve on a single patch bends mostly noise. Average first, and the noise is gone before the curve
# sees it: where all patches know a little, AbM is the better order. And a trained encoder is not as blind as these
# patches: its attention may have told every patch of the lesion already, before any head is asked. So this experiment
# says where to look for a difference, not how large it is in a model that reads radiographs.
#
# **Exercise.** `one_patch.recall("attention", "mba", "one patch", 0, projection="linear")`: attention again, but a map
# without a curve. Does MbA still find the patch? Predict, then look.

# %% tags=["solution"]
straight = one_patch.recall("attention", "mba", "one patch", 0, projection="linear")
print(f"with a curve {found['one patch']['attention']['mba'][0]:.0f} %, without {straight:.0f} %")
assert straight < found["one patch"]["attention"]["mba"][0] - 10
# No: "a finding, whichever it is" is not a direction. To tell a long vector from short ones takes a curve.

# %% [markdown]
# ## 4. What do mapped local features allow?
#
# From here on, the models are as they were trained. With MbA each patch and each word has its own place in the common
# space. And since S^v and S^r (the image's and the report's vector) are means of what each of them gives, their
# similarity can be taken apart: a product of means is a table of products, averaged. Where the aggregation is the mean,
# a patch gives its mapped feature; where it is the maximum, it gives the channels in which it is the largest.
#
# **By hand.** The cosine of one pair from a table *patches × words*:

# %%
n = int(batch.attention_mask[0].sum())
with torch.inference_mode():
    patches = grounding.patch_features(model, batch.images[:1])[0]  # L, common space
    words = grounding.word_features(model, batch.input_ids[:1], batch.attention_mask[:1])[0, :n]
table = patches @ words.T / (patches.mean(0).norm() * words.mean(0).norm())  # L, T
print(
    f"{tuple(table.shape)} → mean {table.mean():.6f}, cosine of the pair {image_mba[0] @ text_mba[0]:.6f}"
)

# %% [markdown]
# **Check** against the library:

# %%
torch.testing.assert_close(table, patch_word_table(patches, words))
torch.testing.assert_close(table.mean().cpu(), image_mba[0] @ text_mba[0], atol=1e-4, rtol=1e-3)
print("the same")

# %% [markdown]
# **Claim:** Under MbA the similarity of a pair is exactly the mean of its patch–word table.

# %%
lesson.claim(
    "Under MbA the similarity of a pair is exactly the mean of its patch–word table.",
    abs(float(table.mean()) - float(image_mba[0] @ text_mba[0])) < 1e-4,
)

# %% [markdown]
# **Picture.** Each patch's share in the similarity with the own report, compared with the mean of all reports: what
# glows speaks for *this* report. Where the data set knows the places of its findings, they are framed.


# %%
def known_boxes(limit: int = 5) -> pd.DataFrame:
    """Test pairs with one finding whose place is known: row of the split, label, box as fractions of the image."""
    file = lesson.data / "boxes.parquet"
    if not file.exists():
        return pd.DataFrame()
    boxes = pd.read_parquet(file)
    rows = (
        pairs.table[["pair_id", "image_path"]].reset_index(names="row").merge(boxes, on="pair_id")
    )
    return rows[~rows["pair_id"].duplicated(keep=False)].drop_duplicates("label").head(limit)


known = known_boxes()
rows = known["row"].to_numpy().copy() if len(known) else np.arange(min(5, len(pairs)))
titles = known["label"].tolist() if len(known) else pairs.table["pair_id"].iloc[rows].tolist()

# %%
some = pairs.batch(rows, lesson.device)
speaks_for = (text_mba[rows] - text_mba.mean(0)).to(lesson.device)
maps = grounding.heat_map(grounding.patch_features(model, some.images), speaks_for).cpu()
frames = None
if len(known):
    sizes = np.array([Image.open(lesson.data / path).size for path in known["image_path"]])
    frames = boxes_on_square(known[["x0", "y0", "x1", "y1"]].to_numpy(float), sizes)
lesson.figure(
    plotting.glows(plotting.to_gray(some.images), maps, titles, frames),
    "glow",
    "Which patches speak for the own report (MbA); frames: where the finding was drawn",
)

# %% [markdown]
# How often the brightest patch really lies in the frame, against chance and against AbM, is measured in
# [06_explore](06_explore.ipynb). A picture is not a measurement: five images can be lucky.
#
# **Exercise.** The AbM model has a map F, too. Nobody can forbid us to apply it to single patches and words. Does the
# mean of this table give the similarity of the pair? Predict, then look.

# %% tags=["solution"]
with torch.inference_mode():
    patches = grounding.patch_features(abm, batch.images[:1])[0]
    words = grounding.word_features(abm, batch.input_ids[:1], batch.attention_mask[:1])[0, :n]
table = patch_word_table(patches, words)
print(f"mean of the table {table.mean():.4f}, cosine of the pair {image_abm[0] @ text_abm[0]:.4f}")
assert abs(float(table.mean()) - float(image_abm[0] @ text_abm[0])) > 1e-5
# It need not: F was trained on aggregated features only, and what it does to a single patch was never asked for.

# %% [markdown]
# ## 5. Which one finds more?
#
# Retrieval of both models on the test split, each with its 95 % interval. *R@K* is the share of queries whose match is
# among the first K.
#
# **Picture.**

# %%
results = {
    name: evaluate_run(run, lesson.data, device=lesson.device, command="notebook 02_mba_vs_abm")
    for name, run in (("MbA", run_mba), ("AbM", run_abm))
}
lesson.figure(
    plotting.recalls(results), "recall", "MbA and AbM on the test split, protocol text-identical"
)

# %% [markdown]
# The intervals overlap or they do not, but that is the wrong question: both models answered the *same* queries. A hard
# image is hard for both. So compare query by query.
#
# **By hand.** For each test image: +1 if only MbA finds the report among the first ten, −1 if only AbM, else 0.

# %%
about = {"texts": pairs.table["report"].tolist(), "labels": pairs.table["labels"].tolist()}
found = {
    name: query_ranks(*features, **about)["image_to_text"].ranks <= 10
    for name, features in (("MbA", (image_mba, text_mba)), ("AbM", (image_abm, text_abm)))
}
gain = found["MbA"].double() - found["AbM"].double()
print(
    f"only MbA: {int((gain > 0).sum())}, only AbM: {int((gain < 0).sum())}, no difference: {int((gain == 0).sum())}"
)

# %% [markdown]
# **Check:** the mean of these is the difference of the two measured R@10.

# %%
at_ten = [results[name]["image_to_text_R@10"] for name in ("MbA", "AbM")]
assert abs(100 * float(gain.mean()) - (at_ten[0] - at_ten[1])) < 1e-9
mean, low, high = bootstrap_mean(gain, pairs.table["patient_id"])
lesson.number("mba_minus_abm", 100 * mean, "Image-to-text R@10, MbA minus AbM, percent, one seed")
print(
    f"MbA − AbM: {100 * mean:+.1f} percentage points, 95 % interval {100 * low:+.1f} … {100 * high:+.1f}"
)

# %% [markdown]
# If zero lies within the interval, this run does not say which is better. If it lies outside, it says so *for this
# seed*: the interval comes from other patients, not from other initial weights or another order of the pairs. A second
# training of the very same model would differ too. So the verdict of this project does not come from here but from the
# study over several seeds, with the null control of section 1 beside it.
#
# **Exercise.** How many more test images would be needed to make the interval half as wide? Predict, then compare the
# widths for a part of the patients and for all.

# %% tags=["solution"]
patients = pairs.table["patient_id"]
quarter = patients.isin(patients.drop_duplicates().iloc[::4]).to_numpy()
few = bootstrap_mean(gain[torch.from_numpy(quarter)], patients[quarter])
print(
    f"width with a quarter of the patients {100 * (few[2] - few[1]):.1f}, with all {100 * (high - low):.1f}"
)
# Four times as many: widths fall with the square root of the number of patients.

# %% [markdown]
# ## Summary
#
# * Linear map and mean: the order does not matter, exactly. That is the null control.
# * A curve in the map makes the difference (another aggregation than the mean would, too), and MbA tells each patch
#   its own gradient.
# * Where one patch alone sees the finding, MbA must help an aggregation that chooses; with the mean it need not.
# * With MbA a similarity can be read back to patches and words.
# * Whether MbA *retrieves* better must be measured, over several seeds. BioViL (2022) had a per-patch perceptron and
#   then a mean on the image side already; what is new here is to have it on both sides.
