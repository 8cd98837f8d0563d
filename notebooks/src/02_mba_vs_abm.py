# %% [markdown]
# # 02 · Map first or aggregate first?
#
# **The question.** An image has many local features, one for each patch, but retrieval needs one vector. Does it
# matter whether we map them to the common space and then aggregate (**MbA**, mapping before aggregation), or
# aggregate and then map (**AbM**)?
#
# **What may surprise you.** With a linear map and an average it does not matter at all: both are the same function,
# to the last digit that floating point keeps. With our map and an average, all of the difference comes from one
# curve.
#
# **You need.** What an encoder gives: a vector for each patch ([00_start_here](00_start_here.ipynb)).
#
# **You will be able to.** Say when the order is a matter of taste and when it is not. Say why mapping first must help
# where one patch alone sees the finding and the aggregation chooses.
#
# **Minutes.** Twenty to read. It runs in one where the models are trained; else two small trainings come on top.
#
# MbA is the second idea of the paper ([arXiv 2312.15840](https://arxiv.org/abs/2312.15840), Fig. 2), which says that
# it aligns images and reports better. We could not read how its map and its aggregation look. Ours stand in
# [00_start_here](00_start_here.ipynb), every term in the [glossary](GLOSSARY.md). The profile `demo` trains with the
# maximum, the others with the mean. Sections 1 and 2 take the mean in any case, with the weights as trained.

# %% tags=["parameters"]
profile: str = ""  # smoke (seconds), demo (minutes), base (a GPU); empty: demo where it is trained
data: str = ""  # data set folder made by `python -m data_prep`; empty: a synthetic one is drawn
out: str = ""  # folder for what a lesson leaves, seen from the project; empty: runs/<profile>
seed: int = 0  # of the initial weights, the order of the pairs and the masks
device: str = "auto"  # auto, cpu, cuda
settings: str = ""  # keys and values on top of the profile, as after --set, parted by spaces

# %%
from kit.lesson import Lesson

lesson = Lesson.begin("02_mba_vs_abm")

# %% tags=["imports"]
import copy

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from IPython.display import display

from kit import found, one_patch, plotting
from mcr_lib.heads import AlignmentHead
from mcr_lib.losses import contrastive_loss
from mcr_lib.model import MCR

# %%
model, pairs, _, _ = lesson.features(lesson.train())
abm, _, _, _ = lesson.features(lesson.train("mcr-abm", alignment="abm"))

# %% [markdown]
# The two models differ in one word of their configuration. They have equally many weights, and both started from the
# same numbers.
#
# **Claim:** Both models have the same weights at the start.


# %%
def start(alignment: str) -> dict:
    torch.manual_seed(lesson.seed)
    return MCR(model.config.model_copy(update={"alignment": alignment})).state_dict()


starts = start("mba"), start("abm")
print(f"{sum(weight.numel() for weight in starts[0].values()):,} weights")
lesson.claim(
    "Both models have the same weights at the start.",
    starts[0].keys() == starts[1].keys()
    and all(torch.equal(starts[0][k], starts[1][k]) for k in starts[0]),
)

# %% [markdown]
# ## 1. When is it the same?
#
# **Picture.** Local features of a test image, on their way to one vector, in both orders. Colours are numbers: orange
# is positive, purple negative.

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
# Look at the strips on the right: similar, but not equal. The lowest one is their difference.
#
# Now the same with a **linear** map F, that is, with a matrix W and a vector b:
#
# mean(F(f)) = mean(f Wᵀ + b) = mean(f) Wᵀ + b = F(mean(f))
#
# A mean is a sum, and a matrix may be drawn out of a sum. Nothing else was used. So it holds for any W and any image,
# before and after training.
#
# **By hand**, for both kinds of map. `mlp` is a **perceptron**: linear, a curve (GELU), linear.

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
# **Check** against the library's heads, for each map with each way to aggregate. `max` takes the largest value of
# each **channel** (each number of the vector). `attention` weights the local features by a learned query. The table
# shows the largest difference between MbA and AbM with the same weights, relative to the size of the values. One cell
# of six should be zero, up to rounding.
#
# **Claim:** With a linear map and the mean, MbA and AbM are the same function.
#
# **Claim:** With a perceptron, or with another aggregation than the mean, they are not.


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
caption = "Largest difference of MbA and AbM with equal weights"
display(lesson.table(differences.map("{:.1e}".format), "differences", caption))
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
# This gives the study its **null control**, an experiment whose true effect is known to be zero. Models with a linear
# map and the mean, trained in both orders, must find equally much. If they did not, the experiment would be wrong,
# not the theory.
#
# **Exercise.** The attention query starts at zero. What is the difference for linear + attention at the very start of
# a training? And once the query has learned something?

# %% tags=["solution"]
with torch.inference_mode():
    first_map, first_pool = (
        head_of("linear", "attention", alignment) for alignment in ("mba", "abm")
    )
    first_pool.map.load_state_dict(first_map.map.state_dict())
    at_start = float((first_map(f) - first_pool(f)).abs().max())
lesson.answer("A query of zero weighs all alike: attention starts as the mean.", at_start < 1e-5)
lesson.answer(
    "A query that has learned to look for something parts the two orders.",
    differences.loc["attention", "linear"] > 1e-3,
)

# %% [markdown]
# ## 2. What does the curve change?
#
# Our F is a perceptron. Only its curve is not linear, so with the mean the order can matter only there. GELU lets
# positive values through and suppresses negative ones.
#
# **By hand.** What enters the curve are the outputs of the first linear layer, called **units**. Here are the two
# orders at the curve. **Check** against the library's head: the rest is linear, so the order after the curve is free.

# %%
first, curve, second = head
with torch.inference_mode():
    inputs = first(one)  # L, D: patches, units
    mean_of_gelus, gelu_of_mean = curve(inputs).mean(0), curve(inputs.mean(0))
    by_hand = second(mean_of_gelus), second(gelu_of_mean)
library = copy.deepcopy(model.image_head)
library.aggregate.pooling = "mean"
with torch.inference_mode():
    for library.alignment, feature in (("mba", by_hand[0]), ("abm", by_hand[1])):
        torch.testing.assert_close(feature, library(one[None])[0], atol=1e-4, rtol=1e-3)
print("the same features")

# %% [markdown]
# **Picture.** Left the unit with the largest difference: each blue dot is a patch. Right all units. With mean pooling,
# the GELU alone makes the difference.
#
# **Claim:** For most units the mean of the curve lies above the curve of the mean.

# %%
unit = int((mean_of_gelus - gelu_of_mean).abs().argmax())
caption = "Mean of the curve against curve of the mean, real units"
display(lesson.figure(plotting.gelu_gap(inputs, unit), "gelu", caption))
above = float((mean_of_gelus > gelu_of_mean - 1e-6).float().mean())
print(f"{above:.0%} of the units")
lesson.claim("For most units the mean of the curve lies above the curve of the mean.", above > 0.5)

# %% [markdown]
# A unit may be strongly on for a few patches and off for the others. Then its mean may be near zero or below, and AbM
# hears next to nothing. MbA still hears those few. A small finding in a large image is such a case. That would be a
# reason to hope for something from MbA. Section 3 tests the hope.
#
# The same can be seen from behind. The **gradient** of the loss says how each patch's local feature should change.
# Both heads aggregate by the mean here, too.
#
# **Claim:** Under AbM all patches of an image get the same gradient from the contrastive loss.
#
# **Claim:** Under MbA each patch gets its own.


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
lesson.claim(
    "Under AbM all patches of an image get the same gradient from the contrastive loss.",
    unlike["AbM"] < 1e-5,
)
lesson.claim("Under MbA each patch gets its own.", unlike["MbA"] > 1e-3)

# %% [markdown]
# **Picture.** The part of each patch's gradient that differs from the mean of all patches, with MbA. With AbM there
# is nothing to draw.

# %%
own = (gradients["MbA"] - gradients["MbA"].mean(1, keepdim=True)).norm(dim=2)  # N, L
side = round(own.shape[1] ** 0.5)
grays = plotting.to_gray(batch.images)
above_least = (own - own.amin(1, keepdim=True)).reshape(-1, side, side).cpu()
figure = plotting.glows(
    grays[:5], above_least[:5], pairs.table["pair_id"][:5].tolist(), unit="its own gradient"
)
lesson.figure(
    figure, "gradients", "How far each patch's gradient differs from the mean of all patches, MbA"
)

# %% [markdown]
# **Exercise.** Now aggregate by the maximum, with MbA. At most how many patches of an image get any gradient at all?

# %% tags=["solution"]
local = f[:1].clone().requires_grad_()
head_of("mlp", "max", "mba")(local).sum().backward()
reached = int((local.grad.abs().sum(2) > 0).sum())
print(f"{reached} of {local.shape[1]} patches; there are {common} channels")
lesson.answer(
    "Each channel listens to one patch only, so at most as many patches as there are channels.",
    reached <= min(common, local.shape[1]),
)

# %% [markdown]
# ## 3. One patch that knows
#
# One patch sees a small lesion. Many patches see an enlarged heart. When does the order decide whether the finding is
# *found*? In a radiograph nobody knows which patch sees what. So we draw local features for which we know it: 64
# patches of noise, and a finding that one of them sees, or all of them a little. Heads of both orders are trained on
# nothing else. Then they are asked which of 500 reports is an image's own (`kit/one_patch.py`). Predict: for which
# aggregation will the order matter?

# %%
heads = one_patch.compare(seeds=3)

# %% [markdown]
# **Picture.** A mark for each seed.
#
# **Claim:** If one patch sees the finding and the aggregation chooses (maximum, attention), MbA finds more.
#
# **Claim:** With the mean, MbA finds no more, whoever sees it.

# %%
caption = "Own report on top, heads alone; who sees the finding is known"
display(lesson.figure(plotting.two_orders(heads), "one_patch", caption))
gain = {
    (seen_by, pooling): np.subtract(orders["mba"], orders["abm"])
    for seen_by, poolings in heads.items()
    for pooling, orders in poolings.items()
}
lesson.claim(
    "If one patch sees the finding and the aggregation chooses (maximum, attention), MbA finds more.",
    min(gain["one patch", pooling].min() for pooling in ("max", "attention")) > 10,
)
lesson.claim(
    "With the mean, MbA finds no more, whoever sees it.",
    max(gain[seen_by, "mean"].mean() for seen_by in heads) < 2,
)

# %% [markdown]
# *Why it must help there.* Attention and the maximum choose. Attention prefers the patches with the highest weight,
# the maximum the largest value in each channel. With AbM they choose among the features as they come. A finding is a
# vector that may point anywhere, so no channel marks the patch that has it. And among 64 patches some noise is nearly
# always larger. With MbA the map comes first. It can learn units that light up for a patch with a finding, whichever
# finding it is. Now choosing is easy.
#
# *Why it cannot help with the mean.* The mean does not choose. For all that is linear the order does not matter
# (section 1). What is left is the curve, and on a single patch a curve bends mostly noise. Average first, and the
# noise is gone before the curve sees it. So where all patches know a little, AbM is the better order.
#
# *What this does not say.* A trained encoder is not as blind as these patches. Its attention may have told every
# patch of the lesion before any head is asked. So the experiment says where to look for a difference, not how large
# it is in a model that reads radiographs.
#
# **Exercise.** `one_patch.recall("attention", "mba", "one patch", 0, projection="linear")`: attention again, but a map
# without a curve. Does MbA still find the patch? Predict, then look.

# %% tags=["solution"]
straight = one_patch.recall("attention", "mba", "one patch", 0, projection="linear")
curved = heads["one patch"]["attention"]["mba"][0]
print(f"with a curve {curved:.0f} %, without {straight:.0f} %")
lesson.answer("A map without a curve finds the patch less often.", straight < curved - 10)

# %% [markdown]
# ## 4. Which one finds more?
#
# One training per order cannot compare the orders: another seed could reverse it. So the verdict comes from the
# committed studies, two to five seeds each, by rules that were written down first. **RSum** adds R@1, R@5 and R@10 of
# both directions, so it lies between 0 and 600. *Equal FLOPs* gives each arm as many operations as two-stream needs.
#
# The *hard phantom* has findings that vary in place and size, and things that only look like findings. There a linear
# model of pixels finds next to nothing, and all networks clear it. Two studies were made on it: `study_hard` trains
# three times as long as `study_hard_short`.
#
# The last line is the null control of section 1. Its two orders are one function, but they round differently, and
# training makes small differences large. So an effect of its size says nothing. How to compare two models is a topic
# of [04_retrieval_evaluation](04_retrieval_evaluation.ipynb).

# %%
found.verdicts(
    ("study_hard_short", "MbA against AbM, recall of MCR, equal FLOPs"),
    ("study_hard", "MbA against AbM, recall of MCR, equal FLOPs"),
    ("study_phantom", "MbA against AbM, recall of MCR, equal time"),
    ("study_openi", "MbA against AbM, recall of MCR, equal time"),
    (
        "study_phantom",
        "null control: linear map and mean, the two orders trained apart (no effect exists)",
    ),
)

# %% [markdown]
# ## Summary
#
# * Linear map and mean: the order does not matter, exactly. That is the null control.
# * With the mean, the curve in the map makes the difference, and MbA gives each patch a gradient of its own.
# * Where one patch alone sees the finding, MbA must help an aggregation that chooses. With the mean it need not.
# * On the hard phantom MCR with MbA *retrieves* better than with AbM. On the other data nothing is decided, for their
#   models are under-trained, and the effects are no larger than that of the null control, which is nothing.
# * With MbA a score can be traced back to patches and words. [06_explore](06_explore.ipynb) does it, and measures in
#   both orders whether the patches lie on the finding.
#
# Can you answer its [three questions](QUESTIONS.md)?
#
# ## References
#
# MCR: [arXiv 2312.15840](https://arxiv.org/abs/2312.15840) · BioViL, which had a perceptron per patch and then a mean
# on the image side already: Boecking et al. 2022, [arXiv 2204.09817](https://arxiv.org/abs/2204.09817) · GELU:
# Hendrycks & Gimpel 2016, [arXiv 1606.08415](https://arxiv.org/abs/1606.08415)
