# %% [markdown]
# # 04 · Retrieval evaluation
#
# **The question.** Given an image, is its report on top?
#
# **What may surprise you.** How far the number moves when the model stays the same. It depends on which reports count
# as right and what happens to ties. It depends on how large the **gallery** is (all that is searched) and on whether
# the input is masked. A recall without its protocol is not a result.
#
# **You need.** To know what a model gives: a vector of length 1 for each image and each report.
#
# **You will be able to.** Compute a recall, an interval and the paper's own measure by hand. Ask of any published
# recall which protocol, gallery, input and interval it has.
#
# **Minutes.** Half an hour to read. It runs in one where the models are trained; else their training comes on top.
#
# Measured is the *test* split: patients from whom the model has seen nothing. We could not read the paper's body, and
# with it the protocol behind its numbers ([00_start_here](00_start_here.ipynb)). So no number of ours can be put
# beside one of theirs. This notebook shows what one would have to know to do so. Every term stands in the
# [glossary](GLOSSARY.md).

# %% tags=["parameters"]
profile: str = ""  # smoke (seconds), demo (minutes), base (a GPU); empty: demo where it is trained
data: str = ""  # data set folder made by `python -m data_prep`; empty: a synthetic one is drawn
out: str = ""  # folder for what a lesson leaves, seen from the project; empty: runs/<profile>
seed: int = 0  # of the initial weights, the order of the pairs and the masks
device: str = "auto"  # auto, cpu, cuda
settings: str = ""  # keys and values on top of the profile, as after --set, parted by spaces

# %%
from kit.lesson import Lesson

lesson = Lesson.begin("04_retrieval_evaluation")

# %% tags=["imports"]
import re
from collections import Counter

import numpy as np
import pandas as pd
import torch
from IPython.display import display
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from scipy.stats import hypergeom

from kit import found, plotting
from mcr_lib.index import Index
from mcr_lib.ranking import KS, merge_texts, ranks
from mcr_lib.retrieval import cluster_draws, evaluate, query_ranks

# %%
run = lesson.train()
model, pairs, image_features, text_features = lesson.features(run, "test")
table = pairs.table
texts, labels, patients = (table[column].tolist() for column in ("report", "labels", "patient_id"))
N = len(table)
print(
    f"{N} pairs of {len(set(patients))} patients; features: images {tuple(image_features.shape)}, reports alike"
)

# %% [markdown]
# ## 1. Where does its report stand?
#
# The model gave every image and every report a vector of length 1. Their inner product, the **cosine**, is the score.
# For an image, sort all reports by score. The **rank** of its own report is its place in that list. **Recall at K**,
# R@K, is the share of images whose own report is among the first K.
#
# **Picture.** The first three reports for three images that were drawn by lot. *Shares a finding* means that one of
# the labels is the same.

# %%
index = Index(image_features, text_features, table, "notebook 04")


def kind_of(row: int, hit) -> str:
    shared = set(labels[row].split("|")) & set(hit.labels.split("|"))
    return "own" if hit.report == texts[row] else "related" if shared else "unrelated"


drawn = np.random.default_rng(lesson.seed).choice(N, 3, replace=False)
queries = [
    {
        "gray": pairs.pixels[pairs.rows[row]] / 255,
        "own": texts[row],
        "hits": [
            (hit.score, hit.report, kind_of(row, hit))
            for hit in index.search(image_features[row], k=3, per="report")
        ],
    }
    for row in drawn
]
lesson.figure(
    plotting.top_reports(queries), "top_reports", "The first three reports found for three images"
)

# %% [markdown]
# Look at the scores, too. How far is the first above the third? It does not matter: only their *order* counts here.
#
# **By hand.** The rank of the own report is one more than the number of reports that score higher. If another report
# scores exactly the same, it is put before the own one: a tie is no success. Ties are not rare here, for some reports
# have the same text. Equal texts share one vector, so that rounding does not tell them apart.
#
# **Check** against the library. It never holds all scores at once, for a gallery may have a million reports.

# %%
first_with_text = [texts.index(text) for text in texts]
reports = text_features[first_with_text]
scores = (image_features.double() @ reports.double().T).numpy().round(9)  # image n, report m → N, N
own = scores.diagonal()
better_or_tied = (scores >= own[:, None]).sum(
    axis=1
) - 1  # the own report is not counted against itself
by_hand = better_or_tied + 1
print({f"R@{k}": f"{100 * (by_hand <= k).mean():.1f} %, chance {100 * k / N:.1f} %" for k in KS})
everyone = torch.arange(N)
assert ranks(image_features, reports, everyone, everyone).tolist() == by_hand.tolist()
# %% [markdown]
# **Picture.** Recall for every K at once. Where the line leaves the dotted one, the model knows something.

# %%
exact = query_ranks(image_features, text_features, texts=texts, labels=labels, protocol="exact")
figure = plotting.cumulative(
    {
        "image to report": exact["image_to_text"].ranks,
        "report to image": exact["text_to_image"].ranks,
    },
    N,
)
lesson.figure(
    figure, "cumulative", "Share of queries whose own match is among the first K, for every K"
)

# %% [markdown]
# **Exercise.** Suppose a broken model gives *every* image and *every* report the same vector. Predict its R@1 if a
# tie counts for the own report, and if it counts against it. What would you like a measurement to say?

# %% tags=["solution"]
point = torch.nn.functional.normalize(torch.ones(N, 8), dim=1)
against = int((ranks(point, point, everyone, everyone) == 1).sum()) / N
flat = (point @ point.T).numpy().round(6)
in_favour = float(((flat > flat.diagonal()[:, None]).sum(axis=1) + 1 == 1).mean())
lesson.answer("Ties in favour make the worst of all models perfect.", in_favour == 1)
lesson.answer("Ties against say what it is worth: nothing.", against == 0)

# %% [markdown]
# ## 2. What counts as right?
#
# Radiologists write the same normal report again and again. If two patients have the same text, word for word, no
# model can tell which is whose. There are three answers, each defensible:
#
# | protocol | right is | who asks like this |
# |---|---|---|
# | `exact` | the own pair only | most papers, often silently |
# | `text-identical` | any report with the same text; identical reports are one item of the gallery | CXR-CLIP |
# | `label-match` | any pair that shares a label | papers that call it P@K (precision at K) or semantic retrieval |
#
# **By hand.** How many duplicates are there? Spaces and capitals aside, equal texts get equal numbers.

# %%
keys = [" ".join(text.casefold().split()) for text in texts]
number = {key: n for n, key in enumerate(dict.fromkeys(keys))}  # in order of first appearance
text_id = [number[key] for key in keys]
copies = pd.Series(text_id).value_counts()
print(
    f"{N} reports, {len(number)} different ones; the most frequent stands there {copies.max()} times"
)

# %% [markdown]
# **Check** against the library. Then measure under all three protocols, in both directions:

# %%
assert merge_texts(texts)[0].tolist() == text_id
protocols = ("exact", "text-identical", "label-match")
measured = {
    protocol: evaluate(
        image_features,
        text_features,
        texts=texts,
        labels=labels,
        clusters=patients,
        protocol=protocol,
    )
    for protocol in protocols
}


# %%
def first_hit(result: dict, direction: str) -> dict:
    """How often the first hit is right, in percent: R@1, which label-match calls precision at 1."""
    key = next(key for key in (f"{direction}_R@1", f"{direction}_precision@1") if key in result)
    low, high = result["interval"][key]
    return {"value": result[key], "low": low, "high": high, "chance": result["chance"][key]}


directions = {"image to report": "image_to_text", "report to image": "text_to_image"}
panels = {
    title: pd.DataFrame({name: first_hit(result, direction) for name, result in measured.items()}).T
    for title, direction in directions.items()
}
lesson.figure(
    plotting.intervals(panels, "first hit is right (%)"),
    "protocols",
    "One model, three protocols: how often the first hit is right, with 95 % interval and chance",
)

# %% [markdown]
# It is one model and one gallery. Do not forget the gray mark: chance moves as well. With labels it is high, for many
# share a finding. So a `label-match` number that impresses beside an `exact` one may be less of an achievement.
#
# **Claim:** Merging identical reports never lowers the recall from image to report.

# %%
merged = query_ranks(image_features, text_features, texts=texts, labels=labels)[
    "image_to_text"
].ranks
lesson.claim(
    "Merging identical reports never lowers the recall from image to report.",
    bool((merged <= exact["image_to_text"].ranks).all()),
)

# %% [markdown]
# It holds for every single image, not only on average. A twin of the own report can no longer stand before it. And
# twins of other reports take one place instead of several.
#
# **Exercise.** Suppose a model knows one thing, always rightly, and nothing else: whether a study is *normal*. All
# normal images and reports get one vector, all others another. Predict its R@1 under `exact` and under
# `text-identical`. Predict its median rank, too: half of the queries have this rank or a better one. Then build it
# from `labels` and see.

# %% tags=["solution"]
normal = torch.tensor([label.lower() in ("", "normal", "no finding") for label in labels])
only_normal = torch.nn.functional.one_hot(normal.long(), 2).float()
larger = max(int(normal.sum()), N - int(normal.sum()))
for protocol in ("exact", "text-identical"):
    result = evaluate(
        only_normal,
        only_normal,
        texts=texts,
        labels=labels,
        clusters=patients,
        protocol=protocol,
        n_bootstrap=0,
    )
    print(
        f"{protocol}: image to report R@1 {result['image_to_text_R@1']:.1f} %, "
        f"median rank {result['image_to_text_median_rank']:.0f} of {result['gallery']['texts']}"
    )
    if protocol == "exact":
        lesson.answer(
            f"Everything ties with its class: the median rank is the size of the larger one, {larger}.",
            result["image_to_text_median_rank"] == larger,
        )

# %% [markdown]
# ## 3. Against how many, and seen how?
#
# Papers rank among 100, 1,000 or 5,000 reports. That alone moves R@1. By how much needs no experiment, for it follows
# from the ranks. Say that r − 1 reports beat the own one in a gallery of N. For a smaller gallery, n − 1 of the N − 1
# others are drawn at random. Then the own report is on top exactly when none of the r − 1 was drawn.
#
# **By hand.** The *hypergeometric* distribution gives the probability of that, for it describes drawing without
# putting back. Its mean over all images is the expected R@1.


# %%
def recall_in_smaller_gallery(ranks_in_full, n: int, k: int = 1) -> float:
    beaten_by = np.asarray(ranks_in_full) - 1  # reports before the own one in the full gallery
    return 100 * float(hypergeom.cdf(k - 1, N - 1, beaten_by, n - 1).mean())


sizes = np.unique(np.geomspace(2, N, 40).round().astype(int))
curve = [recall_in_smaller_gallery(by_hand, n) for n in sizes]

# %% [markdown]
# **Check** the two ends. With the whole gallery it must be the measured R@1. And many small galleries that are really
# drawn must come near it.
#
# **Claim:** The smaller the gallery, the higher the recall, with the same model and the same ranks.

# %%
assert abs(curve[-1] - measured["exact"]["image_to_text_R@1"]) < 1e-9
rng, n, hits = np.random.default_rng(0), max(2, N // 4), []
for _ in range(100):
    some = rng.choice(N, n, replace=False)
    drawn_ranks = ranks(image_features[some], reports[some], everyone[:n], everyone[:n])
    hits.append(100 * float((drawn_ranks == 1).float().mean()))
print(
    f"gallery of {n}: drawn {np.mean(hits):.2f} %, from the formula {recall_in_smaller_gallery(by_hand, n):.2f} %"
)
assert abs(np.mean(hits) - recall_in_smaller_gallery(by_hand, n)) < 4 * np.std(hits) / 10 + 0.5

figure = plotting.gallery_sizes(sizes, {"this model": curve, "chance": 100 / sizes}, N)
caption = "The same model among more and more reports: how often the own one is on top"
display(lesson.figure(figure, "gallery", caption))
lesson.claim(
    "The smaller the gallery, the higher the recall, with the same model and the same ranks.",
    bool((np.diff(curve) <= 1e-9).all() and curve[0] > curve[-1]),
)

# %% [markdown]
# **Seen how?** In training the encoders only ever saw half of an image and three quarters of a report. So which input
# should be evaluated: masked, as in training, or whole, as in use? Both are measured here, with nothing else changed.
#
# **Claim:** Masking the input at inference loses recall.

# %%
_, _, masked_images, masked_texts = lesson.features(run, "test", masked=True)
masked = evaluate(masked_images, masked_texts, texts=texts, labels=labels, clusters=patients)
both = {"whole input": measured["text-identical"], "masked input": masked}
panels = {
    title: pd.DataFrame({name: first_hit(result, direction) for name, result in both.items()}).T
    for title, direction in directions.items()
}
figure = plotting.intervals(panels, "R@1 (%), text-identical")
display(lesson.figure(figure, "masked", "The same model on whole and on masked input"))

print(f"RSum {measured['text-identical']['rsum']:.0f} whole, {masked['rsum']:.0f} masked")
lesson.number(
    "masked_rsum_loss",
    both["whole input"]["rsum"] - masked["rsum"],
    "What masked inference loses: sum of the six R@K, whole minus masked, in points",
)
lesson.claim(
    "Masking the input at inference loses recall.",
    both["whole input"]["rsum"] > masked["rsum"],
    needs="demo",
)

# %% [markdown]
# **Exercise.** A paper reports R@1 in a gallery of 100. Predict what our model would have there, as a multiple of its
# own R@1. Then look.

# %% tags=["solution"]
n = min(100, N)
small, full = recall_in_smaller_gallery(by_hand, n), measured["exact"]["image_to_text_R@1"]
print(f"R@1 among {n}: {small:.1f} %; among {N}: {full:.1f} %")
lesson.answer("It is higher in the small gallery, and nothing was learned.", small > full - 1e-9)

# %% [markdown]
# ## 4. How sure is the number?
#
# The test split is a sample. Another sample of patients would have given another number, and an **interval** says how
# different. The **bootstrap** makes other samples from the one we have: draw as many patients as there are, *with*
# putting back, and compute the recall again. It must draw patients and not images, for images of one patient look
# alike.
#
# **By hand.** R@1 from image to report, for a thousand draws of patients. **Check** against the library's interval.

# %%
code, names = pd.factorize(pd.Series(patients))  # pair → patient
on_top = (exact["image_to_text"].ranks == 1).double()  # N
draws = cluster_draws(len(names), 1000, seed=0)  # 1000, patients: how often each is drawn
weight = draws[:, code]  # 1000, N: an image counts as often as its patient was drawn
recall = 100 * (weight @ on_top) / weight.sum(dim=1)  # 1000
by_patient = recall.quantile(torch.tensor([0.025, 0.975]).double())
torch.testing.assert_close(by_patient.tolist(), measured["exact"]["interval"]["image_to_text_R@1"])
print(
    f"R@1 {measured['exact']['image_to_text_R@1']:.1f} %, 95 % interval {by_patient[0]:.1f} … {by_patient[1]:.1f} %"
)

# %% [markdown]
# **Two models.** Are two of them different? Do not compare their two intervals, for both models face the *same* hard
# and easy patients. Ask instead: is the *difference*, patient by patient, surely not zero? Our example is MbA and
# AbM, the two orders of mapping and aggregating ([02_mba_vs_abm](02_mba_vs_abm.ipynb)):

# %%
abm_run = lesson.train("mcr-abm", alignment="abm")
_, _, abm_images, abm_texts = lesson.features(abm_run, "test")
abm = query_ranks(abm_images, abm_texts, texts=texts, labels=labels, protocol="exact")[
    "image_to_text"
].ranks
mba = exact["image_to_text"].ranks


def interval(per_image) -> list[float]:
    """Mean of a value per image, with its interval over patients."""
    value = torch.as_tensor(per_image).double()
    resampled = (weight @ value) / weight.sum(dim=1)
    return [
        float(value.mean()),
        *resampled.quantile(torch.tensor([0.025, 0.975]).double()).tolist(),
    ]


rows = {
    "MbA, R@10": interval(100 * (mba <= 10)),
    "AbM, R@10": interval(100 * (abm <= 10)),
    "difference, paired": interval(100 * ((mba <= 10).double() - (abm <= 10).double())),
}
lesson.table(
    pd.DataFrame(rows, index=["value", "low", "high"]).T.round(1),
    "paired",
    "Two models on the same patients: recall at 10 from image to report (percent) and its paired difference",
)

# %% [markdown]
# **Exercise.** Suppose the two models had been tested on two *different* sets of patients of this size. Predict:
# would the interval of the difference be wider or narrower? Compute it and compare.

# %% tags=["solution"]
a, b = rows["MbA, R@10"], rows["AbM, R@10"]
unpaired = float(np.hypot((a[2] - a[1]) / 2, (b[2] - b[1]) / 2))
paired = (rows["difference, paired"][2] - rows["difference, paired"][1]) / 2
print(f"half width paired ±{paired:.1f}, unpaired about ±{unpaired:.1f} points")
lesson.answer(
    "The two succeed on the same images, so the paired interval is the narrower one.",
    paired < unpaired,
    needs="demo",
)

# %% [markdown]
# Mind what no interval here shows: another seed of the *training* is another model. Only several trained models can
# show how far that moves the number.
#
# ## 5. How does the paper measure, and what must be beaten?
#
# The paper's Fig. 3 does not ask whether the own report is found. It asks how much what is found *reads* like the own
# one. **BLEU-4** counts the runs of one, two, three and four words that a found report shares with the own one. It
# takes the geometric mean of the four shares. A found report that is shorter than the own one pays for it. The
# measure is computed over the first K reports of all queries at once, for K = 1 … 10.
#
# **By hand**, for a hundred images. **Check** against the scorer that the field uses.


# %%
def words_of(report: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", report.lower())


def runs(words: list[str], n: int) -> Counter:
    return Counter(zip(*(words[start:] for start in range(n)), strict=False))


def bleu_4(pairs_of_words: list[tuple[list[str], list[str]]]) -> float:
    shares = []
    for n in range(1, 5):
        shared = sum((runs(hit, n) & runs(own, n)).total() for hit, own in pairs_of_words)
        shares.append(shared / sum(runs(hit, n).total() for hit, _ in pairs_of_words))
    length, due = (sum(map(len, side)) for side in zip(*pairs_of_words, strict=True))
    return float(np.exp(np.log(shares).mean() + min(0, 1 - due / length)))


# %%
some = np.arange(min(100, N))
hits = index.search(image_features[some], k=10, per="report")
lot = np.random.default_rng(lesson.seed).choice(N, (len(some), 10))
retrieved = {
    "this model": [[words_of(hit.report) for hit in row] for row in hits],
    "drawn by lot": [[words_of(texts[other]) for other in row] for row in lot],
}
curves = {
    name: [
        bleu_4([(hit, words_of(texts[n])) for n, row in enumerate(rows) for hit in row[:k]])
        for k in range(1, 11)
    ]
    for name, rows in retrieved.items()
}
scorer = BleuScorer(n=4)
for n, row in enumerate(retrieved["this model"]):
    for hit in row:
        scorer += (" ".join(hit), [" ".join(words_of(texts[n]))])
library = scorer.compute_score(option="closest", verbose=0)[0][3]
assert abs(library - curves["this model"][-1]) < 1e-6
figure = plotting.by_depth(curves, "BLEU-4 of the first K reports")
lesson.figure(
    figure, "bleu", "The paper's measure: how much the first K found reports read like the own"
)

# %% [markdown]
# Even a report drawn by lot gets something, for radiologists' sentences are alike. The study's full figure, with four
# such measures for all arms, is `benchmarks/results/study_phantom_fig3.png`.
#
# **Can pixels and word counts alone do it?** The simplest method there is, **CCA**, takes thumbnails and counts of
# words. It looks for the weighted sums of either that go together best. It has no network. Whoever proposes a model
# should clear it. The next cell reads what it got on the test splits of the committed study, beside MCR (the mean of
# its seeds) and chance. The study stopped after 500 steps. `demo` trains three times as long, on other data: so its
# recall in section 1 does not contradict the table, and has no linear model beside it.

# %%
lesson.table(
    pd.concat({name: found.beside_linear(name) for name in ("phantom", "openi")}).round(1),
    "linear",
    "R@10 of a linear model of pixels and word counts, beside the study's MCR and chance (percent)",
)

# %% [markdown]
# ## Summary
#
# * A rank needs a rule for ties. A recall needs a protocol, a gallery size, a kind of input and an interval. All of
#   them stand in every result file of this kit (`metrics.json`).
# * From ranks one can compute the recall in any smaller gallery. So papers with different galleries can be compared
#   if they publish ranks, and not if they publish recalls.
# * Bootstrap patients, not images. Compare models patient by patient.
# * A model is to be put beside chance *and* beside the simplest method that could work.
#
# Next: [05_modality_gap](05_modality_gap.ipynb) looks at where the vectors lie; [06_explore](06_explore.ipynb) lets
# you ask with your own words.
#
# Can you answer its [three questions](QUESTIONS.md)?
#
# ## References
#
# MCR: [arXiv 2312.15840](https://arxiv.org/abs/2312.15840) · identical reports as one (CXR-CLIP): You et al. 2023,
# [arXiv 2310.13292](https://arxiv.org/abs/2310.13292) · BLEU: Papineni et al. 2002 · CCA: Hotelling 1936 · the
# bootstrap: Efron 1979
