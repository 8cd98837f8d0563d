# %% [markdown]
# # 00 · Start here
#
# **The question.** What does it do, what is in the box, and does my machine run it?
#
# **What may surprise you.** The whole model of the paper, two encoders, two decoders and three losses, handles a pair
# in a moment. One pair is fast; training is slow because there are many.
#
# **You need.** A little Python and an idea of what a neural network is. Nothing of medicine.
#
# **You will be able to.** Search images by a sentence and reports by an image, and follow one pair through the model,
# step by step, to its three losses.
#
# **Minutes.** The search comes in the first one. Twenty to read.
#
# The paper is *Masked Contrastive Reconstruction for Cross-modal Medical Image-Report Retrieval* (MCR), [arXiv
# 2312.15840](https://arxiv.org/abs/2312.15840). Its task: given a chest radiograph, find its report among many (and
# the other way round). The end of this notebook lists what we could read of it, and what we chose ourselves. Nothing
# here is for clinical use.
#
# Every word is explained here or in the [glossary](GLOSSARY.md).
#
# All notebooks begin with the same two cells. One holds the parameters, the other checks them.

# %% tags=["parameters"]
profile: str = ""  # smoke (seconds), demo (minutes), base (a GPU); empty: demo where it is trained
data: str = ""  # data set folder made by `python -m data_prep`; empty: a synthetic one is drawn
out: str = ""  # folder for what a lesson leaves, seen from the project; empty: runs/<profile>
seed: int = 0  # of the initial weights, the order of the pairs and the masks
device: str = "auto"  # auto, cpu, cuda
settings: str = ""  # keys and values on top of the profile, as after --set, parted by spaces

# %%
from kit.lesson import Lesson

lesson = Lesson.begin("00_start_here")

# %% tags=["imports"]
import time

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from IPython.display import Markdown, display

from data_prep import folder
from data_prep.images import read_gray
from kit import plotting
from kit.explore import Searcher
from kit.front_picture import found_films, known_boxes
from kit.lesson import environment
from kit.markup import paper_tables
from kit.patches import removed_mask
from mcr_lib.data import PairData
from mcr_lib.encoders import patchify, take
from mcr_lib.losses import contrastive_loss, image_reconstruction_loss, text_reconstruction_loss
from mcr_lib.masking import random_masking
from mcr_lib.model import MCR
from mcr_lib.run import load_run
from mcr_lib.search import build_index

# %% [markdown]
# ## 1. What does it do?
#
# It finds. Give it a sentence, and it looks through images it has never seen, of patients it has never seen, for
# those that fit. If a box above says that the model has learned next to nothing, the hits are nonsense.

# %%
run = lesson.train()
trained, tokenizer = load_run(run, lesson.device)
index = build_index(run, lesson.data, split="test", device=lesson.device)
searcher = Searcher(index, trained, tokenizer)

# %% [markdown]
# **Picture.** A sentence, and the three images it finds. The patches that speak for the sentence glow. A blue frame
# shows where the finding really is, if the data know it. The model never saw the frames.

# %%
sentence = "Large left pleural effusion."
films = found_films(searcher, sentence, known_boxes(lesson.data))
lesson.figure(plotting.films(sentence, films), "films", f"What is found for “{sentence}”")

# %% [markdown]
# And the other way round: given an image, it finds the reports that fit. Change the sentence above, or the row here,
# and run the cells again. [06_explore](06_explore.ipynb) has inputs to type into.

# %%
row = 0
own = index.table.at[row, "report"]
hits = index.search(index.features["images"][row], k=3, among="texts", per="report")
asked = {
    "gray": searcher.pixels(row) / 255,
    "own": own,
    "hits": [(hit.score, hit.report, "own" if hit.report == own else "other") for hit in hits],
}
lesson.figure(plotting.top_reports([asked]), "reports", "The first three reports for one image")

# %% [markdown]
# If this ran, everything needed is installed. The profiles `smoke` and `demo` need no GPU. This is what your machine
# has:

# %%
caption = "The machine these numbers are from"
lesson.table(pd.Series(environment(), name="here").to_frame(), "environment", caption)

# %% [markdown]
# ## 2. What goes in?
#
# The kit reads one kind of folder, whatever the data came from: the images, and a table with one row per image–report
# pair. Without your own data, it draws a **phantom**: sketched chest radiographs with findings, and sentences that
# describe them. It is a drawing, not a simulation. It holds no patient's data, so everything may be shown. And the
# program that drew it knows *where* each finding is.

# %%
table = folder.read(lesson.data)
funnel = folder.read_json(lesson.data / "funnel.json")
display(pd.Series(funnel, name="left after this step").to_frame())
table.groupby("split").agg(
    pairs=("pair_id", "size"),
    patients=("patient_id", "nunique"),
    different_reports=("report", "nunique"),
)

# %% [markdown]
# The **funnel** says how many pairs each preparation step left over. The phantom loses none. With a real archive,
# look here first when a count is not what you expected.
#
# The pairs are **split** into three parts: `train`, `validate` and `test`. No patient stands in two of them. Else a
# model that has seen a patient's earlier image could recognise the patient instead of the finding. Some reports are
# written twice, word for word. Why this matters is a topic of
# [04_retrieval_evaluation](04_retrieval_evaluation.ipynb).
#
# **Picture.** Three pairs. Where the data set knows the places of its findings, they are framed. `XXXX` stands where
# a word was blacked out to protect the patient, as in the real reports of Open-i. The phantom imitates that.

# %%
shown = table[table["labels"] != ""].iloc[:3]
boxes = known_boxes(lesson.data)
frames = [
    boxes.loc[boxes["pair_id"] == pair, ["x0", "y0", "x1", "y1", "label"]].values.tolist()
    for pair in shown["pair_id"]
]
images = [np.asarray(read_gray(lesson.data / path)) / 255 for path in shown["image_path"]]
figure = plotting.pairs(images, shown["report"].tolist(), shown["pair_id"].tolist(), frames)
lesson.figure(figure, "pairs", "Three image–report pairs of the data set")

# %% [markdown]
# A model sees neither pictures nor words, but numbers. An image becomes gray levels with a mean near 0. A report
# becomes **tokens**, words or pieces of words. The **vocabulary**, all tokens there are, is learned from the training
# reports. Frequent words stand in it whole. Rarer ones are cut into pieces, and a piece that continues a word starts
# with `##`.

# %%
vocabulary = tokenizer.get_vocab()
first = tokenizer.convert_ids_to_tokens(list(range(5)))
print(len(vocabulary), "tokens in the vocabulary, the first:", first)

# %% [markdown]
# The first five are special: padding, an unknown piece, begin and end of a report, and `[MASK]`. The last will be
# important.
#
# **By hand.** To cut a word, take the longest piece that stands in the vocabulary, then go on behind it. The last
# word here is new to this vocabulary, yet its pieces can be read. **Check** on all words of the test reports.


# %%
def cut_by_hand(word: str) -> list[str]:
    pieces, start = [], 0
    while start < len(word):
        prefix = "##" if start else ""
        ends = [
            end for end in range(len(word), start, -1) if prefix + word[start:end] in vocabulary
        ]
        if not ends:
            return ["[UNK]"]
        pieces.append(prefix + word[start : ends[0]])
        start = ends[0]
    return pieces


words = ["the", "heart", "is", "enlarged", "pneumopericardium"]
print([cut_by_hand(word) for word in words])

test_words = sorted(set(" ".join(table.loc[table["split"] == "test", "report"]).lower().split()))
test_words = [word for word in test_words if word.isalpha()]
assert all(cut_by_hand(word) == tokenizer.tokenize(word) for word in test_words)
print(f"all {len(test_words)} words are cut alike")

# %% [markdown]
# **Exercise.** A colleague types *pneumothorax* in Greek letters. Predict the tokens, then open the folded cell below.

# %% tags=["solution"]
lesson.answer(
    "No piece of it is in the vocabulary, so one token stands for all: unknown.",
    tokenizer.tokenize("πνευμοθώραξ") == ["[UNK]"],
)

# %% [markdown]
# ## 3. What happens to one pair?
#
# The image is cut into squares, its **patches**. The **encoders** E<sub>v</sub> (image) and E<sub>r</sub> (report)
# turn each patch and each token into a vector, its **local feature**: f<sup>v</sup> and f<sup>r</sup>. A small
# network F **maps** every local feature into the **common space**, where images and reports can be compared. There
# the local features are averaged and brought to length 1. That gives one vector for the image, S<sup>v</sup>, and one
# for the report, S<sup>r</sup>.
#
# The input is always **masked**: half of the image and a quarter of the report's words are **hidden**, as the paper
# has it. The **decoders** D<sub>v</sub> and D<sub>r</sub> must rebuild what was hidden from the local features of
# what was seen.
#
# To average is one way to **aggregate**, to make one vector of many (the key `pooling` of the configuration). The
# profile `demo` trains with another, the largest value of each channel. In this notebook it is the mean in every
# profile.

# %%
config = trained.config.model_copy(update={"pooling": "mean"})
pairs = PairData(lesson.data, "test", tokenizer, config)
torch.manual_seed(lesson.seed)
model = MCR(config).to(lesson.device).eval()
print(
    f"{sum(p.numel() for p in model.parameters()):,} weights, drawn at random: nothing is learned"
)

# %% [markdown]
# **By hand.** One pair goes through the model, each step on its own line. The next cell prints the shape of what
# comes out: `N` is the number of pairs, here one, `L` counts patches, `T` tokens. Mind a name: the network F is `map`
# in the code, where `F` is PyTorch's `functional`. Random numbers, the **noise**, decide what is hidden
# ([01_masking](01_masking.ipynb)). The model is a new one, untrained, so that nothing in it is mysterious.
#
# **Claim:** One image–report pair goes through the whole model in less than a minute.

# %%
started = time.perf_counter()
one = pairs.batch(torch.tensor([0]).numpy(), lesson.device)
ids_keep, ids_removed = random_masking(one.image_noise, model.config.mask_ratio)
masked_ids, positions, labels = model.mask_report(one)  # where words are hidden, and which ones
with torch.inference_mode():
    f_v = model.image_encoder(one.images, ids_keep)  # E_v: visible patches only
    f_r = model.report_encoder(masked_ids, one.attention_mask)  # E_r
    common_v = model.image_head.map(f_v)  # F, on every local feature
    common_r = model.report_head.map(f_r)
    S_v = F.normalize(common_v.mean(1), dim=-1)
    present = one.attention_mask[:, :, None].float()  # padding does not count
    S_r = F.normalize((common_r * present).sum(1) / present.sum(1), dim=-1)
    predicted = model.image_decoder(f_v, ids_keep, ids_removed)  # D_v: the pixels of hidden patches
    words = model.report_decoder(f_r, one.attention_mask, positions)  # D_r: scores for all words
seconds = time.perf_counter() - started

# %%
for name, tensor, axes in [
    ("image", one.images, "N, channel, height, width"),
    ("report", one.input_ids, "N, T"),
    ("f_v", f_v, "N, visible patches, channels"),
    ("f_r", f_r, "N, T, channels"),
    ("F(f_v)", common_v, "N, visible patches, common space"),
    ("F(f_r)", common_r, "N, T, common space"),
    ("S_v", S_v, "N, common space"),
    ("S_r", S_r, "N, common space"),
    ("D_v(f_v)", predicted, "N, hidden patches, pixels of a patch"),
    ("D_r(f_r)", words, "N, masked tokens, vocabulary"),
]:
    print(f"{name:9s} {tuple(tensor.shape)!s:20s} {axes}")
lesson.number(
    "one_pair_seconds",
    seconds,
    "Seconds for one pair through the whole untrained model, first call",
)

lesson.claim(
    "One image–report pair goes through the whole model in less than a minute.", seconds < 60
)

# %% [markdown]
# D<sub>v</sub> answers for hidden patches only, and D<sub>r</sub> for hidden words only. Nothing else counts in a
# loss, so nothing else is computed at the end.
#
# **Picture.** The same tensors. What is hidden is pale blue. Each row of a map is one local feature: orange is
# positive, purple negative. A vertical stripe means that all rows say the same here. An untrained encoder has many.

# %%
L, n = model.config.num_patches, int(one.attention_mask.sum())  # n: tokens before the padding
figure = plotting.walkthrough(
    plotting.hide(one.images, removed_mask(ids_removed, L), model.config.patch_size)[0],
    tokenizer.convert_ids_to_tokens(masked_ids[0, :n].tolist()),
    (masked_ids != one.input_ids)[0, :n].tolist(),
    (f_v[0], common_v[0], S_v[0]),
    (f_r[0, :n], common_r[0, :n], S_r[0]),
)
lesson.figure(
    figure,
    "walkthrough",
    "One pair on its way through the untrained model: masked input to one vector each",
)

# %% [markdown]
# **Check** that these lines are what the model does when it is simply called:

# %%
with torch.inference_mode():
    output = model(one)
torch.testing.assert_close(S_v, output.image_features)
torch.testing.assert_close(S_r, output.text_features)
hidden = take(patchify(one.images, model.config.patch_size), ids_removed)
torch.testing.assert_close(
    image_reconstruction_loss(predicted, hidden), output.image_reconstruction_loss
)
torch.testing.assert_close(text_reconstruction_loss(words, labels), output.text_reconstruction_loss)
print("the same numbers")

# %% [markdown]
# **Exercise.** The third loss, the contrastive one, asks which of the reports of the batch is this image's **own**.
# Our batch holds one pair. Predict the loss before you open the solution. Does it depend on the weights?

# %% tags=["solution"]
lesson.answer("0: with one report there is nothing to choose from.", output.contrastive_loss == 0)
lesson.answer(
    "It does not depend on the weights: the trained model pays 0 as well.",
    trained(one).contrastive_loss == 0,
)

# %% [markdown]
# ## 4. What is the model asked to do?
#
# It has three tasks at once: tell the pairs of a batch apart (L<sub>vrc</sub>), rebuild the hidden pixels
# (L<sub>mim</sub>), rebuild the hidden words (L<sub>mrm</sub>). Before training we know what each loss must be near,
# because we know what guessing costs:
#
# * among N reports, guessing costs log N;
# * patches are normalised to variance 1 before they are compared, so answering "flat gray" costs 1;
# * guessing among all words of a vocabulary of V costs log V.

# %%
N = min(16, len(pairs))
several = pairs.batch(torch.arange(N).numpy(), lesson.device)
with torch.inference_mode():
    output = model(several)
guessing = {
    "contrastive_loss": torch.tensor(float(N)).log(),
    "image_reconstruction_loss": torch.tensor(1.0),
    "text_reconstruction_loss": torch.tensor(float(len(vocabulary))).log(),
}
losses = pd.DataFrame(
    {
        "untrained model": {name: float(getattr(output, name)) for name in guessing},
        "guessing": {name: float(value) for name, value in guessing.items()},
    }
)
lesson.table(
    losses.round(3),
    "untrained_losses",
    "The three losses of an untrained model beside what guessing costs",
)

# %% [markdown]
# An untrained model is clearly better than guessing in none of the three. Where it is worse, it has an opinion, and
# the opinion is wrong.
#
# **Picture.** How similar each image is to each report. The measure is the **cosine** of S<sup>v</sup> and
# S<sup>r</sup>: both have length 1, so it is the sum of their products, channel by channel. A **true pair**, an image
# with its own report, stands on the diagonal.

# %%
cosines = output.image_features @ output.text_features.T
lesson.figure(
    plotting.similarity(cosines, "untrained: an image likes all reports alike"),
    "similarity_untrained",
    "Cosine of some images with some reports before training; the true pairs are framed",
)

# %% [markdown]
# Within a row all colours are nearly the same, and the diagonal does not stand out. Training is there to make it
# stand out ([03_training](03_training.ipynb)).
#
# **By hand.** The contrastive loss from this matrix. Each image should give its own report the largest share, and
# each report its own image. Before the shares are made, the cosines are multiplied by `logit_scale`, a learned number
# that makes small differences large. Its inverse is called the **temperature**. **Check** against the library.
#
# **Claim:** A model that knows nothing pays about log N for choosing among N reports.

# %%
logits = output.logit_scale * cosines
image_to_text = -logits.log_softmax(dim=1).diagonal().mean()
text_to_image = -logits.log_softmax(dim=0).diagonal().mean()
by_hand = (image_to_text + text_to_image) / 2
torch.testing.assert_close(by_hand, output.contrastive_loss)
lesson.claim(
    "A model that knows nothing pays about log N for choosing among N reports.",
    abs(float(output.contrastive_loss - guessing["contrastive_loss"])) < 0.7,
)

# %% [markdown]
# **Exercise.** Predict the contrastive loss of this model with a `logit_scale` of 0. And which of the three losses
# would change if the pairs came in another order?

# %% tags=["solution"]
blind = contrastive_loss(output.image_features, output.text_features, torch.tensor(0.0))
lesson.answer(
    "With a scale of 0 all reports count alike: log N.",
    torch.allclose(blind.cpu(), guessing["contrastive_loss"]),
)
with torch.inference_mode():
    turned = model(pairs.batch(torch.arange(N).flip(0).numpy(), lesson.device))
lesson.answer(
    "The order of the pairs changes none of the three.",
    all(torch.allclose(getattr(turned, n), getattr(output, n), atol=1e-4) for n in guessing),
)

# %% [markdown]
# ## What the paper says, and what we chose
#
# We could read only the paper's abstract and its captions, and we know of no code of the authors. So `mcr_lib.paper`
# keeps two lists apart, and this cell prints them. A number that is not in the first list is ours.

# %%
display(Markdown(paper_tables()))

# %% [markdown]
# ## Where to go from here
#
# | notebook | question |
# |---|---|
# | [01_masking](01_masking.ipynb) | What does the encoder see at 50 % / 25 %? |
# | [02_mba_vs_abm](02_mba_vs_abm.ipynb) | Does it matter whether we map or aggregate first? |
# | [03_training](03_training.ipynb) | Why one masked input for both tasks? |
# | [04_retrieval_evaluation](04_retrieval_evaluation.ipynb) | Given an image, is its report on top? |
# | [05_modality_gap](05_modality_gap.ipynb) | Why do images and texts live apart? |
# | [06_explore](06_explore.ipynb) | What does it find for *my* sentence or image? |
#
# Each stands on its own, and takes what an earlier one has trained. No single run can show that one way of training
# is better than another. That is the task of the **study**: `python -m benchmarks.study` trains each way with several
# seeds.
#
# ## Summary
#
# * One folder format in, unit vectors out. One pair is fast; training is slow because there are many.
# * Local features are mapped to the common space one by one and then aggregated, here averaged. That is Mapping
#   before Aggregation.
# * Three losses, each with a known price of guessing. A training that does not go below it has learned nothing.
#
# Can you answer its [three questions](QUESTIONS.md)?
#
# ## References
#
# MCR: [arXiv 2312.15840](https://arxiv.org/abs/2312.15840) · vision transformers: Dosovitskiy et al. 2021,
# [arXiv 2010.11929](https://arxiv.org/abs/2010.11929) · contrastive learning of images and texts: Radford et al. 2021,
# [arXiv 2103.00020](https://arxiv.org/abs/2103.00020)
