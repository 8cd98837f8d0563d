# %% [markdown]
# # 05 · Modality gap
#
# **The question.** Why do images and texts live apart?
#
# **What may surprise you.** A model that has learned nothing has the gap already. And closing it by hand need not make
# the search any better.
#
# **You need.** The two orders, MbA and AbM, of [02_mba_vs_abm](02_mba_vs_abm.ipynb).
#
# **You will be able to.** Measure a gap by hand. Say why it is there, why training leaves some of it, and why it does
# not measure quality.
#
# **Minutes.** Half an hour to read. It runs in one where the models are trained; else their training comes on top.
#
# Images and reports are mapped into one *common* space. One would expect an image to lie beside its own report there.
# In all models of this kind one finds two clouds with a gap in between (Liang et al. 2022, [arXiv
# 2203.02053](https://arxiv.org/abs/2203.02053)).
#
# The paper's Fig. 4 shows the clouds for two orders. MbA maps each patch and word and then aggregates, AbM aggregates
# first. The paper's claim is that MbA aligns the clouds better. What we could read of the paper stands in
# [00_start_here](00_start_here.ipynb), every term in the [glossary](GLOSSARY.md).

# %% tags=["parameters"]
profile: str = ""  # smoke (seconds), demo (minutes), base (a GPU); empty: demo where it is trained
data: str = ""  # data set folder made by `python -m data_prep`; empty: a synthetic one is drawn
out: str = ""  # folder for what a lesson leaves, seen from the project; empty: runs/<profile>
seed: int = 0  # of the initial weights, the order of the pairs and the masks
device: str = "auto"  # auto, cpu, cuda
settings: str = ""  # keys and values on top of the profile, as after --set, parted by spaces

# %%
from kit.lesson import Lesson

lesson = Lesson.begin("05_modality_gap")

# %% tags=["imports"]
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from IPython.display import display

from kit import found, plotting
from kit.explorers import GapExplorer, TemperatureExplorer
from kit.plane import project_2d
from mcr_lib.features import encode_pairs
from mcr_lib.losses import contrastive_loss
from mcr_lib.modality_gap import alignment, gap_distance, modality_gap, uniformity
from mcr_lib.model import MCR
from mcr_lib.ranking import ranks
from mcr_lib.retrieval import query_ranks

# %% [markdown]
# As in the paper's figure, everything is measured on the split `validate`. The models are trained here, or found
# where an earlier notebook left them.

# %%
runs = {"MbA": lesson.train(), "AbM": lesson.train("mcr-abm", alignment="abm")}
loaded = {name: lesson.features(run, "validate") for name, run in runs.items()}
model, pairs, _, _ = loaded["MbA"]
features = {
    name: (image_features, text_features)
    for name, (_, _, image_features, text_features) in loaded.items()
}

# %% [markdown]
# ## 1. Is there a gap before anything is learned?
#
# Build the two models once more, and do not train them. All weights are random numbers, the same in both.
#
# **Picture.** Images and reports in the plane in which they spread most. Its axes are the first two **principal
# components** of both clouds together. A line joins an image to its own report.


# %%
def untrained(alignment: str, **settings) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(lesson.seed)
    config = model.config.model_copy(update={"alignment": alignment, **settings})
    return encode_pairs(MCR(config).to(lesson.device).eval(), pairs, lesson.device)


start = {f"{name}, untrained": untrained(name.lower()) for name in runs}
images, texts = start["MbA, untrained"]
features = {**start, **features}
planes = {name: project_2d(*both, "pca", seed=lesson.seed) for name, both in start.items()}
figure = plotting.clouds({name: (p.images, p.texts) for name, p in planes.items()}, width=7)
lesson.figure(figure, "untrained", "Images and reports of untrained models, principal components")

# %% [markdown]
# There are two small clouds, far apart. Nobody pushed them.
#
# **By hand.** The **gap** is the distance between the centres of the two clouds. All vectors have length 1, so it
# lies between 0 and 2. **Check** against the library.

# %%
centre_of_images, centre_of_texts = images.double().mean(dim=0), texts.double().mean(dim=0)
gap = (centre_of_images - centre_of_texts).norm()
assert abs(float(gap) - gap_distance(images, texts)) < 1e-6
cosine_within = images.double() @ images.double().T  # N, N
within = float(cosine_within[~torch.eye(len(images), dtype=torch.bool)].mean())
print(f"gap {gap:.3f}; mean cosine of two different images {within:.4f}")

# %% [markdown]
# Why is it there? In a space of many dimensions two random directions are about at right angles. But the cosine above
# says that any two *images* point nearly the same way. Much is the same for every input: the positions of patches and
# words, the class token, and curves like GELU, which suppress negative values. The input itself is a small difference
# on top. So each encoder sends everything into one narrow **cone**. There are two encoders, so there are two cones,
# and they have no reason to be the same.
#
# **Claim:** A model that has learned nothing has a modality gap already.
#
# **Claim:** Its images lie in a narrow cone: two different ones have a cosine above 0.8.

# %%
lesson.number("untrained_gap", float(gap), "Gap of an untrained model")
lesson.claim("A model that has learned nothing has a modality gap already.", float(gap) > 0.3)
lesson.claim(
    "Its images lie in a narrow cone: two different ones have a cosine above 0.8.", within > 0.8
)

# %% [markdown]
# And how large is it? The paper compares the gaps of MbA and AbM after training. So ask first how they differ
# *before*, when no order can have aligned anything.
#
# **Claim:** With the maximum, an untrained AbM model has a far larger gap than an untrained MbA model.
#
# **Claim:** With the mean, the two are within a tenth of each other.

# %%
gaps = {
    order: {
        pooling: gap_distance(*untrained(order.lower(), pooling=pooling))
        for pooling in ("mean", "max")
    }
    for order in runs
}
caption = "The gap of untrained models, by order and aggregation"
display(lesson.table(pd.DataFrame(gaps).round(2), "untrained_gaps", caption))
lesson.claim(
    "With the maximum, an untrained AbM model has a far larger gap than an untrained MbA model.",
    gaps["AbM"]["max"] > 1.3 * gaps["MbA"]["max"],
)
lesson.claim(
    "With the mean, the two are within a tenth of each other.",
    abs(gaps["AbM"]["mean"] / gaps["MbA"]["mean"] - 1) < 0.1,
)

# %% [markdown]
# So a difference of the gaps *after* training may have been there *before*. It says something of the order only where
# training has changed it, or where one aggregates by the mean.
#
# **Exercise.** Suppose there were no cones, and all images and reports spread evenly over the sphere, each at random.
# Predict the gap for N pairs in D dimensions: 0, about 1, or something that depends on N?

# %% tags=["solution"]
for n in (len(images), 100 * len(images)):
    i, t = (
        F.normalize(
            torch.randn(n, images.shape[1], generator=torch.Generator().manual_seed(s)), dim=1
        )
        for s in (1, 2)
    )
    expected = (2 / n) ** 0.5
    lesson.answer(
        f"N = {n}: the gap is near sqrt(2 / N), {expected:.3f}.",
        abs(gap_distance(i, t) - expected) < 0.5 * expected,
    )
    lesson.answer(f"N = {n}: chance is far below the gap above.", expected < float(gap) / 2)

# %% [markdown]
# ## 2. What does training do to it?
#
# Training pulls an image towards its own report and pushes it from the others. Beside the gap, these measures are in
# use, and `mcr_lib.modality_gap` has all of them:
#
# | measure | what it says |
# |---|---|
# | gap distance | distance of the two centres (Liang 2022) |
# | relative modality gap | distance of the true pairs, against the spread within each cloud (Schrodi 2025) |
# | alignment | mean squared distance of the true pairs; small is good (Wang & Isola 2020) |
# | uniformity | how evenly a cloud is spread over the sphere; more negative is more even (the same) |
#
# **By hand.** Alignment and uniformity for the MbA model. **Check** against the library.

# %%
images, texts = (x.double() for x in features["MbA"])
alignment_by_hand = (images - texts).square().sum(dim=1).mean()
squared = torch.pdist(images).square()  # all pairs of images: N (N − 1) / 2
uniformity_by_hand = (-2 * squared).exp().mean().log()
assert abs(float(alignment_by_hand) - alignment(images, texts)) < 1e-6
assert abs(float(uniformity_by_hand) - uniformity(images)) < 1e-6
print("the same alignment and uniformity")

# %%
columns = ["gap_distance", "relative_modality_gap", "alignment", "uniformity", "true_pair_cosine"]
measures = pd.DataFrame({name: modality_gap(i, t) for name, (i, t) in features.items()}).T[columns]
recall = {
    name: query_ranks(
        i, t, texts=pairs.table["report"].tolist(), labels=pairs.table["labels"].tolist()
    )
    for name, (i, t) in features.items()
}
measures["image_to_text_R@10"] = [
    100 * float((r["image_to_text"].ranks <= 10).float().mean()) for r in recall.values()
]
measures.columns = [name.replace("_", " ") for name in measures.columns]
lesson.table(
    measures.round(3),
    "gap",
    "The gap before and after training, and recall at 10 (text-identical, percent)",
)

# %% [markdown]
# Go through the columns one by one before you decide which row is best. The measures need not agree, and an untrained
# model need not be the worst in each. Nor do two trained models compare the two orders, for another seed gives other
# numbers. That comparison takes several seeds.
#
# **Picture.** The paper's Fig. 4, drawn from our models. Its caption names principal components and t-SNE, so here
# are both. Principal components keep distances as well as a plane can, so the width of a gap may be read from them.
# **t-SNE** keeps neighbours together and stretches everything else. It shows *that* two clouds are apart, never how
# far.
#
# **Claim:** Training spreads the images out: they fill far more of the sphere than before.

# %%
planes = {name: project_2d(i, t, "pca", seed=lesson.seed) for name, (i, t) in features.items()}
titles = {
    name: f"{name}\n{100 * sum(p.explained):.0f} % of the spread" for name, p in planes.items()
}
figure = plotting.clouds({titles[name]: (p.images, p.texts) for name, p in planes.items()})
caption = "Images and reports in the plane of their principal components (after the paper's Fig. 4)"
display(lesson.figure(figure, "pca", caption))
planes = {
    name: project_2d(i, t, "tsne", seed=lesson.seed, max_points=400)
    for name, (i, t) in features.items()
}
figure = plotting.clouds(
    {name: (p.images, p.texts) for name, p in planes.items()},
    xlabel="t-SNE, no unit",
    ylabel="t-SNE, no unit",
)
caption = "The same by t-SNE, which shows neighbourhoods and no distances"
display(lesson.figure(figure, "tsne", caption))
lesson.claim(
    "Training spreads the images out: they fill far more of the sphere than before.",
    uniformity(features["MbA"][0]) < uniformity(features["MbA, untrained"][0]) - 0.5,
    needs="demo",
)

# %% [markdown]
# **Exercise.** The gap can shrink in two ways: the clouds come together, or they grow until they overlap. Which
# measure tells the two apart? Predict for MbA whether the clouds grew, then look.

# %% tags=["solution"]
spread = {}
for name in ("MbA, untrained", "MbA"):
    i, t = (x.double() for x in features[name])
    spread[name] = ((i - i.mean(0)).norm(dim=1).mean() + (t - t.mean(0)).norm(dim=1).mean()) / 2
    print(f"{name}: gap {gap_distance(i, t):.3f}, distance from the own centre {spread[name]:.3f}")
lesson.answer(
    "The mean distance from the own centre tells: the clouds have more than doubled.",
    spread["MbA"] > 2 * spread["MbA, untrained"],
    needs="demo",
)

# %% [markdown]
# ## 3. Does closing the gap help?
#
# If images and reports should lie together, why not simply move them? The **gap vector** leads from the centre of the
# reports to that of the images. Shift all images by half of it one way and all reports by half of it the other way,
# and bring them back to length 1.
#
# **By hand.**


# %%
def shift(image_features, text_features, amount: float):
    """Close `amount` of the gap: 0 leaves all as it is, 1 puts the two centres on one point."""
    gap_vector = image_features.mean(dim=0) - text_features.mean(dim=0)
    return (
        F.normalize(image_features - amount / 2 * gap_vector, dim=1),
        F.normalize(text_features + amount / 2 * gap_vector, dim=1),
    )


# %% [markdown]
# **Picture.** Move the slider, and read the line above the clouds.

# %%
images, texts = features["MbA"]
GapExplorer(images, texts, pairs.table, shift)


# %%
def recall_at_10(image_features, text_features) -> list[float]:  # to reports, to images
    texts, labels = pairs.table["report"].tolist(), pairs.table["labels"].tolist()
    found = query_ranks(image_features, text_features, texts=texts, labels=labels)
    ways = ("image_to_text", "text_to_image")
    return [100 * float((found[way].ranks <= 10).float().mean()) for way in ways]


def loss_at(temperature: float) -> list[float]:
    return [float(contrastive_loss(*m, torch.tensor(1 / temperature))) for m in moved]


amounts = np.arange(-10, 31) / 20
moved = [shift(images, texts, amount) for amount in amounts]
gaps = [gap_distance(*m) for m in moved]
of_each = np.array([recall_at_10(*m) for m in moved])  # amounts, 2
recalls = {"image to report": of_each[:, 0], "report to image": of_each[:, 1]}
at = {"as it is": amounts == 0, "with the gap closed": amounts == 1}
print({f"R@10 {name}, both ways": of_each[here][0].round(1).tolist() for name, here in at.items()})
learned = float(1 / model.log_scale.detach().exp())
losses = {f"{learned:.3g} (learned)": loss_at(learned), "0.3": loss_at(0.3), "1": loss_at(1.0)}
figure = plotting.shifting(amounts, gaps, recalls, losses)
lesson.figure(
    figure, "shift", "Moving images and reports along the gap: the gap closes, and the rest?"
)

# %% [markdown]
# The gap can be made as small as one likes. Compare the line above the picture: the recall moves by a few points at
# most. The right panel is for section 4.
#
# For one direction there is a reason why the recall hardly can follow. Move only the images, by any vector g. Then
# the score of image i with report t changes from i⋅t to i⋅t − g⋅t. For a given report, *every* image loses the same.
# So the order of the images does not change at all.
#
# **Check:** shift the images by the whole gap, and do not bring them back to length 1. And a model that knows nothing
# does not come to know something when its clouds are pushed together.
#
# **Claim:** Moving all images by one vector changes no report's order of the images.
#
# **Claim:** A model that has learned nothing finds next to nothing, with its gap closed or not.

# %%
everyone, i, t = torch.arange(len(images)), images.double(), texts.double()
before = ranks(t, i, everyone, everyone)
after = ranks(t, i - (i.mean(dim=0) - t.mean(dim=0)), everyone, everyone)
moved_untrained = {
    amount: recall_at_10(*shift(*start["MbA, untrained"], amount)) for amount in (0.0, 1.0)
}
chance = 100 * 10 / len(images)
print(f"untrained, R@10 as it is and with the gap closed: {moved_untrained}; chance {chance:.1f}")
lesson.claim(
    "Moving all images by one vector changes no report's order of the images.",
    bool((before == after).all()),
)
lesson.claim(
    "A model that has learned nothing finds next to nothing, with its gap closed or not.",
    max(max(recalls) for recalls in moved_untrained.values()) < 5 * chance,
    needs="demo",
)

# %% [markdown]
# **Exercise.** When the images are moved, the order of the *reports* for a given image may change. Why is that not
# the same thing? Predict for which reports the score rises.

# %% tags=["solution"]
g = i.mean(dim=0) - t.mean(dim=0)
change = -(t @ g)  # what a report's score gains with any image when all images are moved by −g
gains = (i - g) @ t.T - i @ t.T  # N images, N reports
print(f"a report gains between {change.min():.3f} and {change.max():.3f}")
lesson.answer(
    "Each report gains the same with every image, so the bonus knows nothing of the image.",
    torch.allclose(gains, change.expand(len(i), -1), atol=1e-9),
)
lesson.answer("Reports gain unlike, so their order for an image may change.", change.std() > 0)

# %% [markdown]
# ## 4. Why does training not close all of it?
#
# The contrastive loss never looks at a score by itself. It compares. It divides the scores of one image with all
# reports by the **temperature** and makes shares of them that add up to 1 (a softmax). The own report should have a
# large share. The same goes for each report among the images.
#
# **By hand**, and a **Check** against the library at several temperatures.


# %%
def loss_by_hand(scores, temperature: float) -> torch.Tensor:
    logits = scores / temperature  # N images, N reports
    of_images = logits.logsumexp(dim=1) - logits.diagonal()  # each image among the reports
    of_reports = logits.logsumexp(dim=0) - logits.diagonal()  # each report among the images
    return (of_images.mean() + of_reports.mean()) / 2


scores = i @ t.T
for temperature in (0.02, 0.07, 1.0):
    library = contrastive_loss(i, t, torch.tensor(1 / temperature))
    torch.testing.assert_close(loss_by_hand(scores, temperature), library)
print("the same loss")

# %% [markdown]
# A gap makes all scores smaller, those of true pairs and those of wrong ones. As far as it takes the *same* from all,
# the loss cannot see it:
#
# **Claim:** Adding one number to all scores changes the contrastive loss at no temperature.

# %%
changes = [
    float(loss_by_hand(scores - 0.5, T) - loss_by_hand(scores, T)) for T in (0.02, 0.07, 1.0)
]
lesson.claim(
    "Adding one number to all scores changes the contrastive loss at no temperature.",
    max(map(abs, changes)) < 1e-9,
)

# %% [markdown]
# So nothing pulls at that part of the gap. Something pulls at the rest, and the temperature decides how strongly: it
# says which difference of two cosines counts as large. It is learned, and kept from falling below 0.01. Here it
# ended:

# %%
print(
    {name: f"{1 / float(loaded[name][0].log_scale.detach().exp()):.3f}" for name in loaded},
    "at the start:",
    model.config.temperature,
)

# %% [markdown]
# **Picture.** One image and its scores. Move the temperature. To the left, the first report takes all. To the right,
# all are alike, and the loss is that of guessing.

# %%
TemperatureExplorer(images[0] @ texts.T, 0, pairs.table["report"].tolist(), round(learned, 3))

# %% [markdown]
# Now look once more at the right panel of the figure in section 3. Each curve is the loss of the *same* vectors, at
# one temperature, while the gap is closed or widened. A triangle marks its lowest point. How much would *this* model
# gain by closing its gap, and how does that depend on the temperature?
#
# **Exercise.** Three reports are sorted by score. Predict the loss at a very high and at a very low temperature, if
# the own report is the first of them, and if it is the second.

# %% tags=["solution"]
own_is_first, own_is_second = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.4, 0.5, 0.3])


def loss_of(row: torch.Tensor, temperature: float) -> float:  # the own report is the first column
    return float(-(row / temperature).log_softmax(dim=0)[0])


lesson.answer(
    "Very high: all pay what guessing costs, log 3.",
    all(abs(loss_of(row, 100.0) - np.log(3)) < 0.01 for row in (own_is_first, own_is_second)),
)
lesson.answer("Very low: the first pays nothing.", loss_of(own_is_first, 0.001) < 1e-6)
lesson.answer(
    "Very low: the second pays its distance to the first, divided by the temperature.",
    abs(loss_of(own_is_second, 0.001) - 0.1 / 0.001) < 1e-2,
)

# %% [markdown]
# ## 5. What did the study find?
#
# Does MbA align better, as the paper says? Two to five seeds each, judged by rules written down first. Read the
# first two lines with section 1 in mind: these models take the maximum, where the untrained gaps differ already.
#
# *Supported* means that the whole interval lies on the side that the paper claims, *contradicted* that it lies on the
# other. *Equal time* gives each arm as long as two-stream needs for 500 steps, *equal FLOPs* as many operations.

# %%
found.verdicts(
    ("study_phantom", "MbA against AbM, modality gap of MCR"),
    ("study_phantom", "MbA against AbM, modality gap of MCR, equal time"),
    ("study_phantom", "MbA against AbM, distance of true pairs of MCR"),
    ("study_phantom_variants", "MbA against AbM, modality gap of MCR, aggregated by the mean"),
    ("study_openi", "MbA against AbM, modality gap of MCR, equal time"),
    ("study_hard", "MbA against AbM, modality gap of MCR, equal FLOPs"),
)

# %% [markdown]
# So the answer depends on when one looks. After equal steps MbA has the smaller gap, after equal time on the phantom it
# has not. On the hard phantom, where MbA finds more ([02_mba_vs_abm](02_mba_vs_abm.ipynb), section 4), the gap is
# undecided. A smaller gap is not better retrieval (section 3).
#
# ## Summary
#
# * There are two encoders, so there are two cones. The gap is there before anything is learned, and with the maximum
#   its size depends on the order.
# * The contrastive loss is blind to whatever adds the same to all scores. So a part of the gap may stay for ever.
# * A gap is not a fault in itself. Moving all images alike cannot even change the order in which a report finds them.
# * So read a gap beside the recall, and compare only with equal temperature, batch size and steps.
#
# Next: [06_explore](06_explore.ipynb) looks at single patches and words in this space.
#
# Can you answer its [three questions](QUESTIONS.md)?
#
# ## References
#
# MCR: [arXiv 2312.15840](https://arxiv.org/abs/2312.15840) · the gap and its cones: Liang et al. 2022,
# [arXiv 2203.02053](https://arxiv.org/abs/2203.02053) · the relative gap: Schrodi et al. 2025,
# [arXiv 2404.07983](https://arxiv.org/abs/2404.07983) · alignment and uniformity: Wang & Isola 2020,
# [arXiv 2005.10242](https://arxiv.org/abs/2005.10242)
