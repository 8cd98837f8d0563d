# %% [markdown]
# # 06 · Explore
#
# **The question.** What does it find for *my* sentence, or for *my* image?
#
# **What may surprise you.** Nobody has ever shown this model where anything is. Yet with mapping before aggregation
# each patch and each word has its own place in the common space. So one can ask a patch what it thinks of a word. How
# often the answer is right is measured here, against boxes that the model never saw.
#
# **You need.** The two orders, MbA and AbM, of [02_mba_vs_abm](02_mba_vs_abm.ipynb).
#
# **You will be able to.** Search by sentence and by image, and light the patches that speak for a word. Say how far a
# score and a map may be trusted.
#
# **Minutes.** Half an hour to read and play. It runs in two where the models are trained.
#
# **MbA** maps local features to the common space and then aggregates them to one vector, as the paper does
# ([00_start_here](00_start_here.ipynb)). **AbM** aggregates first and then maps. One aggregates by the mean or, in
# the profile `demo`, by the maximum of each channel. Every term stands in the [glossary](GLOSSARY.md).

# %% tags=["parameters"]
profile: str = ""  # smoke (seconds), demo (minutes), base (a GPU); empty: demo where it is trained
data: str = ""  # data set folder made by `python -m data_prep`; empty: a synthetic one is drawn
out: str = ""  # folder for what a lesson leaves, seen from the project; empty: runs/<profile>
seed: int = 0  # of the initial weights, the order of the pairs and the masks
device: str = "auto"  # auto, cpu, cuda
settings: str = ""  # keys and values on top of the profile, as after --set, parted by spaces

# %%
from kit.lesson import Lesson

lesson = Lesson.begin("06_explore")

# %% tags=["imports"]
import numpy as np
import pandas as pd
import torch
from IPython.display import display
from PIL import Image

from data_prep.images import letterbox, read_gray
from kit import plotting
from kit.boxes import bootstrap_mean, boxes_on_square, measure_grounding, prompt
from kit.explore import Searcher
from kit.explorers import WordExplorer
from kit.grounding import heat_map, patch_features, word_features
from kit.widgets import RetrievalExplorer
from mcr_lib.data import prepare_images, store_size
from mcr_lib.features import encode_pictures
from mcr_lib.index import Index
from mcr_lib.run import load_run
from mcr_lib.search import build_index

# %% [markdown]
# Two models of the same size and seed are trained, or found where an earlier notebook left them. The **gallery**, all
# that is searched, is the test split. Neither model has seen anything of its patients.

# %%
runs = {"MbA": lesson.train(), "AbM": lesson.train("mcr-abm", alignment="abm")}
searchers = {}
for name, run in runs.items():
    model, tokenizer = load_run(run, lesson.device)
    index = build_index(run, lesson.data, split="test", device=lesson.device)
    searchers[name] = Searcher(index, model, tokenizer)
mba, abm = searchers["MbA"], searchers["AbM"]

# %%
_, pairs, image_features, text_features = lesson.features(runs["MbA"], "test", masked=True)
masked_index = Index(image_features, text_features, mba.index.table, mba.index.model_hash)
searchers["MbA, masked"] = Searcher(masked_index, mba.model, mba.tokenizer, masked=True)

# %% [markdown]
# ## 1. What does it find for my sentence?
#
# **Picture.** Type a finding and press Enter, or choose an image of the gallery, or upload your own (PNG, JPEG or
# DICOM). An upload stays on this machine. You see the best K with their **score**, the cosine of the two vectors.
# Patches glow and words are marked that speak *for* this question rather than for any other.

# %%
RetrievalExplorer(searchers, sentence="Large left pneumothorax.", k=5)

# %% [markdown]
# Without a running kernel you see the state in which it was left. With one, try:
#
# * a finding that the phantom knows (effusion, mass, pacemaker), then one that it does not (appendicitis):
#   the search answers all the same;
# * the same sentence with `MbA, masked`: question and gallery are now masked as in training;
# * an image, and then *Light up* with single words of the best report.
#
# **By hand.** A search is one matrix product. **Check** that the index finds the same rows with the same scores.

# %%
tokens = mba.tokenizer("Large left pneumothorax.", return_tensors="pt").to(lesson.device)
with torch.inference_mode():
    query = mba.model.encode_text(tokens["input_ids"], tokens["attention_mask"])[0].cpu()
scores = mba.index.features["images"] @ query  # gallery, D @ D → gallery
best = scores.argsort(descending=True)[:5]
hits = mba.index.search(query, k=5, among="images")
assert [hit.row for hit in hits] == best.tolist()
np.testing.assert_allclose([hit.score for hit in hits], scores[best], atol=1e-6)
found = {"score": [hit.score for hit in hits], "labels": [hit.labels for hit in hits]}
pd.DataFrame(found).round(3)

# %% [markdown]
# **Can a score reveal nonsense?** These images know nothing of an appendix. So ask for findings that the phantom
# draws, and for what it cannot know. Compare the score of the best image. Beside it stands into how many pieces the
# tokenizer had to cut each word, because it never saw it whole.
#
# **Claim:** The best image for nonsense scores as high as the best image for a real finding.
#
# **Claim:** The tokenizer cuts every nonsense sentence into more pieces a word than any sentence about a finding.

# %%
asked = {
    "finding": ["Cardiomegaly.", "Pacemaker.", "Left pleural effusion.", "Right rib fracture."],
    "nonsense": ["Appendicitis.", "Broken ankle.", "The cat sat on the mat.", "Purple rain."],
}
lines = []
for kind, sentences in asked.items():
    for sentence in sentences:
        read = mba.read(sentence)
        pieces = sum(word is not None for word in read.word_of_token) / len(read.spans)
        score = float((mba.index.features["images"] @ read.feature).max())
        lines.append({"": sentence, "kind": kind, "score": score, "pieces a word": pieces})
asked = pd.DataFrame(lines).set_index("")
display(lesson.table(asked.round(2), "nonsense", "The best image's score for sense and nonsense"))
of_kind = asked.groupby("kind")
lesson.claim(
    "The best image for nonsense scores as high as the best image for a real finding.",
    of_kind["score"].median()["nonsense"] >= of_kind["score"].median()["finding"],
    needs="demo",
)
lesson.claim(
    "The tokenizer cuts every nonsense sentence into more pieces a word than any sentence about a finding.",
    of_kind["pieces a word"].min()["nonsense"] > of_kind["pieces a word"].max()["finding"],
    needs="demo",
)

# %% [markdown]
# So a score orders the gallery for one question. It does not say whether the question makes sense, and the scores of
# two questions cannot be compared. The explorer and `search` refuse only what they cannot read at all, such as Greek
# letters.
#
# **Exercise.** Only one word differs between *Large left pneumothorax.* and *Large right pneumothorax.*, and both
# findings look alike but for the side. Take the first ten images for each sentence. Predict how many have a
# pneumothorax on the side that was asked for, and how many on the other. Then leave out *Large*: some models take
# such a sentence for one of the many reports that deny a pneumothorax.


# %% tags=["solution"]
def sides(searcher, side: str, k: int = 10) -> dict:
    reports = [
        hit.report.lower() for hit in searcher.for_text(f"Large {side} pneumothorax.", k).hits
    ]
    found = [text for text in reports if "pneumothorax" in text]
    return {
        word: sum(
            f"{word} pneumothorax" in text or f"{word} apical pneumothorax" in text
            for text in found
        )
        for word in ("left", "right")
    }


counts = {
    f"{name}, asked: {side}": sides(searchers[name], side)
    for name in ("MbA", "AbM")
    for side in ("left", "right")
}
display(pd.DataFrame(counts).T)  # reports that deny a pneumothorax count on neither side
lesson.answer(
    "A trained MbA model finds the side that was asked for more often than the other.",
    all(
        counts[f"MbA, asked: {side}"][side] > counts[f"MbA, asked: {side}"][other]
        for side, other in (("left", "right"), ("right", "left"))
    ),
    needs="demo",
)

# %% [markdown]
# ## 2. Which patch means which word?
#
# With MbA an image's vector is put together from its mapped patches. So one can ask what each patch **gives** to it.
# With the mean, every patch gives its mapped feature. With the maximum, each channel of the vector comes from the one
# patch in which it is largest, and the others give nothing.
#
# Either way the parts add up to the whole, for images and for reports. So the score of a pair falls apart into a
# table, patches × words. A column of it, laid out as the patches lie in the image, is a **map of one word**.
#
# Much of such a map could be the same for all words, for reports of chests have much in common. So the **mean report**
# of the gallery is subtracted. What is left is what the word says *rather than any other text*, drawn where it is
# positive.
#
# **By hand.** How much does the score change with each patch's feature, and how large is the feature? The product of
# the two, **gradient times value**, is what the patch gives, be it the mean or the maximum. **Check** it against the
# library.

# %%
certainty = (mba.index.features["images"] * mba.index.features["texts"]).sum(dim=1).numpy()
several = pairs.table["labels"].str.contains("|", regex=False)
pair = int(
    np.argmax(certainty - 9 * ~several)
)  # of the pairs with several findings the one it is surest of
one = pairs.batch(np.array([pair]), lesson.device)
direction = mba.index.features["texts"][pair] - mba.index.features["texts"].mean(dim=0)
with torch.no_grad():
    mapped = mba.model.image_head.map(mba.model.image_encoder(one.images)).float().cpu()  # 1, L, D
mapped.requires_grad_()
pooled = mba.model.image_head.aggregate(mapped)  # 1, L, D → 1, D
(pooled @ direction / pooled.detach().norm()).sum().backward()
S = mba.model.config.img_size // mba.model.config.patch_size  # patches along a side
map_by_hand = (
    S * S * (mapped.grad * mapped).sum(dim=2).detach().reshape(S, S)
)  # its mean is what the image gets
given = patch_features(mba.model, one.images).cpu()  # 1, L, D: what each patch gives
torch.testing.assert_close(map_by_hand, heat_map(given, direction)[0], atol=1e-4, rtol=1e-3)
print(
    f"the same map; its mean {map_by_hand.mean():.4f}, the image along this direction "
    f"{mba.index.features['images'][pair] @ direction:.4f}"
)

# %% [markdown]
# **Claim:** With MbA, the maps of all tokens average to the map of the whole report.
#
# **Picture.** The words that set this report apart most, and what they light up. The slider below goes through all
# words.

# %%
present = one.attention_mask[0].bool()
words = word_features(mba.model, one.input_ids, one.attention_mask)[0, present].cpu()  # T, D
directions = words / words.mean(dim=0).norm() - mba.index.features["texts"].mean(dim=0)
of_tokens = heat_map(given.expand(len(words), -1, -1), directions)  # T, S, S
lesson.claim(
    "With MbA, the maps of all tokens average to the map of the whole report.",
    float((of_tokens.mean(dim=0) - map_by_hand).abs().max()) < 1e-3,
)
report = mba.report(pair)
weight = report.towards(mba.index.features["images"][pair] - mba.centre["images"])
named = {
    name.lower(): n for n, name in enumerate(report.names()) if len(name) > 4
}  # a word that comes twice: once
telling = sorted(sorted(named.values(), key=lambda n: -weight[n])[:5])
glow = [heat_map(given, report.word(n) - mba.centre["texts"])[0] for n in telling]
figure = plotting.glows(
    [mba.pixels(pair) / 255] * len(glow), glow, [report.names()[n] for n in telling]
)
lesson.figure(
    figure,
    "words",
    "The most telling words of one report, and the patches that each of them lights up",
)

# %% [markdown]
# Some of it looks sensible, some does not. One reason is that in the report encoder the words read each other. So the
# vector of *right* knows what is on the right, and that of a full stop may have kept the gist of its sentence. Whole
# sentences are on firmer ground than single words, and section 3 measures sentences.

# %%
WordExplorer(mba, pair)

# %% [markdown]
# **Exercise.** What if the mean report is *not* subtracted? Take the maps of two sentences, *Cardiomegaly.* and
# *Right rib fracture.*, on the same images. Predict how much the two maps correlate over the patches of an image, with
# the mean report subtracted and without. One image settles nothing, so take the mean over a hundred.

# %% tags=["solution"]
raw = torch.stack([mba.read(text).feature for text in ("Cardiomegaly.", "Right rib fracture.")])
correlation, images = {}, [mba.image(row).patches for row in range(min(100, len(pairs)))]
for name, texts in (("left in", raw), ("subtracted", raw - mba.centre["texts"])):
    maps = [heat_map(torch.cat(images), text).flatten(1) for text in texts]  # N, S·S each
    correlation[name] = np.mean([np.corrcoef(*two)[0, 1] for two in zip(*maps, strict=True)])
print("mean correlation, the mean report", {n: f"{c:.2f}" for n, c in correlation.items()})
lesson.answer(
    "The two maps are no less alike when the mean report is subtracted.",
    correlation["subtracted"] > correlation["left in"] - 0.1,
    needs="demo",
)

# %% [markdown]
# AbM has a map F, too, and nobody can forbid us to apply it to single patches. But it was trained on aggregated
# features, and nobody ever asked what it gives for a single patch. Whether its maps are worse, the table of the next
# section tells of these two models. One training of each is no verdict on the order.
#
# ## 3. Do they point at the finding?
#
# A map that looks right proves nothing, for one tends to show those that do. The phantom knows where it drew each
# finding, so we can count. This is called **grounding**. For every finding of the test split a short sentence is
# built from its attributes. Its map is compared with its box in two ways:
#
# * **pointing game**: does the hottest patch touch the box?
# * **IoU** (intersection over union): the box covers n patches, so take the n hottest. How many patches are in both,
#   of those that are in either? The size is given away, the place is not.
#
# Beside each stands its **chance**, what a random order of the patches would get. For a large box that is a lot. A
# second control takes the same images with the words of *another* finding. A map that only knows where chests are
# interesting does just as well with the wrong words.

# %%
known = lesson.data / "boxes.parquet"
none = pd.DataFrame(columns=["pair_id"])  # real data have no boxes
boxes = pd.read_parquet(known) if known.exists() else none
row_of_pair = {pair_id: row for row, pair_id in enumerate(pairs.table["pair_id"])}
boxes = boxes[boxes["pair_id"].isin(row_of_pair)].reset_index(drop=True)
rows = boxes["pair_id"].map(row_of_pair).to_numpy(int)
prompts = [prompt(finding) for finding in boxes.itertuples()]
print(len(boxes), "findings with a box, for example:", prompts[:3])

# %% [markdown]
# The boxes are fractions of the image as it was drawn. The model sees it **letterboxed**, with black bars where it is
# not square. So the boxes must be moved, or everything would be measured in the wrong place.

# %%
sizes = np.array(
    [Image.open(path).size for path in mba.index.table["image_path"].iloc[rows]]
).reshape(-1, 2)
on_square = (
    boxes_on_square(boxes[["x0", "y0", "x1", "y1"]].to_numpy(float), sizes)
    if len(boxes)
    else np.zeros((0, 4))
)
other = np.roll(np.arange(len(boxes)), len(boxes) // 2)  # whose words the second control uses


def maps(searcher, words_of) -> torch.Tensor:  # → N, S, S
    patches = torch.cat([searcher.image(row).patches for row in rows.tolist()])
    texts = torch.stack([searcher.read(prompts[n]).feature for n in words_of])
    return heat_map(patches, texts - searcher.centre["texts"])


# %%
if len(boxes):
    own = np.arange(len(boxes))
    all_maps = {"MbA": maps(mba, own), "AbM": maps(abm, own), "MbA, other words": maps(mba, other)}
    results = {
        name: measure_grounding(m, on_square).assign(finding=boxes["label"])
        for name, m in all_maps.items()
    }

# %% [markdown]
# **Picture.** A few of them, drawn by lot, not by looks. Each shows the map for the sentence above it. The blue frame
# is the box. All have one scale.
#
# **By hand.** The pointing game is a few lines: find the hottest patch, and look whether the box reaches into it.
# **Check** against the library, for every box.


# %%
def points_at(heat, box) -> bool:
    S = len(heat)
    row, column = divmod(int(heat.argmax()), S)
    x0, y0, x1, y1 = box * S  # in patches
    return bool(x0 < column + 1 and x1 > column and y0 < row + 1 and y1 > row)


if len(boxes):
    lot = np.random.default_rng(lesson.seed).choice(len(boxes), min(10, len(boxes)), replace=False)
    figure = plotting.glows(
        [mba.pixels(row) / 255 for row in rows[lot]],
        all_maps["MbA"][lot],
        [prompts[n] for n in lot],
        on_square[lot],
    )
    lesson.figure(
        figure,
        "maps",
        "MbA: where ten sentences about findings lie in their images; framed: where they are",
    )
    display(figure)
    by_hand = [points_at(heat, box) for heat, box in zip(all_maps["MbA"], on_square, strict=True)]
    assert by_hand == results["MbA"]["pointing"].astype(bool).tolist()
    print("the same", len(by_hand), "times")

# %% [markdown]
# Now all findings together. The intervals resample patients, for two findings of one patient are no independent
# witnesses.
#
# **Claim:** The hottest patch of a trained MbA map touches the finding more often than chance and than with the words
# of another finding.

# %%
if len(boxes):
    patients = pairs.table["patient_id"].iloc[rows].to_numpy()
    lines = {}
    for name, result in results.items():
        for measured, unit in (("pointing", "pointing game, %"), ("iou", "IoU, %")):
            value, low, high = (100 * v for v in bootstrap_mean(result[measured], patients))
            lines.setdefault(name, {})[unit] = f"{value:.1f} ({low:.1f} … {high:.1f})"
    chance = 100 * results["MbA"][["pointing_chance", "iou_chance"]].mean()
    lines["chance"] = dict(
        zip(["pointing game, %", "IoU, %"], chance.round(1).astype(str), strict=True)
    )
    summary = pd.DataFrame(lines).T
    display(
        lesson.table(
            summary, "grounding", "Where the maps point: mean and 95 % interval over patients"
        )
    )
    own_words, other_words = (
        results[name]["pointing"].to_numpy() for name in ("MbA", "MbA, other words")
    )
    over_chance = bootstrap_mean(own_words - results["MbA"]["pointing_chance"], patients)
    over_other = bootstrap_mean(own_words - other_words, patients)
    lesson.claim(
        "The hottest patch of a trained MbA map touches the finding more often than chance and than with the "
        "words of another finding.",
        over_chance[1] > 0 and over_other[1] > 0,
        needs="demo",
    )

# %%
if len(boxes):
    figure = plotting.grounding(results, {"pointing": "pointing game (%)", "iou": "IoU (%)"})
    lesson.figure(
        figure,
        "grounding",
        "Where the maps point, finding by finding (how many there are in parentheses)",
    )
    display(figure)

# %% [markdown]
# Read the figure with its gray marks. A long tube has a large box, and whatever points near the middle touches it. A
# nodule covers a patch or two. What counts is the distance to chance, and to the open diamonds: the same images with
# the wrong words.
#
# **Exercise.** Which control is harder to beat, chance or the wrong words? Mind that all effusions lie low and all
# pacemakers lie high. Then predict how far a *fixed* map gets that ignores image and text: the mean of all maps.

# %% tags=["solution"]
if len(boxes):
    fixed = all_maps["MbA"].mean(dim=0, keepdim=True).expand(len(boxes), -1, -1)
    controls = {
        "the same map for all": measure_grounding(fixed, on_square)["pointing"].mean(),
        "chance": results["MbA"]["pointing_chance"].mean(),
        "the wrong words": results["MbA, other words"]["pointing"].mean(),
    }
    print({name: f"{100 * share:.1f} %" for name, share in controls.items()})
    print("hardest to beat here:", max(controls, key=controls.get))

# %% [markdown]
# ## 4. And for my image?
#
# The upload above reads PNG, JPEG (8 or 16 bit, gray or colour) and DICOM. It fits the longer side to the model's
# input and keeps the aspect ratio. What it cannot read, it names in the line below the inputs. The same can be done
# from Python, here with an image of the gallery as the file:
#
# **By hand.** Read, letterbox, encode, compare. **Check** against the library, and against the vector that the index
# holds for this image.

# %%
file = mba.index.table.at[pair, "image_path"]
pixels = letterbox(read_gray(file), store_size(mba.model.config.img_size))  # uint8, S, S
images = prepare_images(
    torch.from_numpy(pixels.copy())[None, None],
    mba.model.config.img_size,
    mba.model.config.in_chans,
).to(lesson.device)
with torch.inference_mode():
    feature = mba.model.encode_image(images)[0].cpu()
torch.testing.assert_close(feature, encode_pictures(mba.model, [file])[0])
torch.testing.assert_close(feature, mba.index.features["images"][pair], atol=1e-3, rtol=0)
for hit in mba.index.search(feature, k=3, among="texts", per="report"):
    print(f"{hit.rank}. {hit.score:.3f} {hit.report[:90]}")

# %% [markdown]
# **Exercise.** Turn an image around, left to right, as in a mirror. Now the heart and the stomach bubble are on the
# wrong side, too. The model has never seen the like, for training never flips images. Predict: does the search now
# find reports with the sides exchanged?


# %% tags=["solution"]
def sides_found(pixels) -> dict:
    reports = " ".join(hit.report.lower() for hit in mba.for_image(pixels, 10).hits).split()
    return {side: reports.count(side) for side in ("left", "right")}


one_sided = pairs.table["report"].str.lower().str.count("right") - pairs.table[
    "report"
].str.lower().str.count("left")
row = int(one_sided.argmax())
print(
    "as it is:",
    sides_found(mba.pixels(row)),
    "mirrored:",
    sides_found(mba.pixels(row)[:, ::-1].copy()),
)

# %% [markdown]
# ## Summary
#
# * A search is one matrix product; everything else is showing it honestly.
# * A score orders what is there. It does not reveal a question that makes no sense.
# * With MbA the score falls apart into patches and words. That explains the *score*, not the disease.
# * A map is worth what its measurement says, against boxes, beside chance and beside the wrong words.
#
# None of this is for clinical use. The command line does the same without a notebook:
# `python -m mcr_lib search --run RUN --data DIR --text "Large left pneumothorax."`
#
# Can you answer its [three questions](QUESTIONS.md)?
#
# ## References
#
# MCR: [arXiv 2312.15840](https://arxiv.org/abs/2312.15840) · the pointing game: Zhang et al. 2016,
# [arXiv 1608.00507](https://arxiv.org/abs/1608.00507) · gradient times value, as in Grad-CAM: Selvaraju et al. 2017,
# [arXiv 1610.02391](https://arxiv.org/abs/1610.02391)
