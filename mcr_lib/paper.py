"""What the paper says and what we chose: two lists, kept apart. The README, the notebooks and the report page print
them from here; nothing else in the project may attribute a number to the paper.

Known of arXiv 2312.15840 are the abstract and the five figure captions; its body, tables and code are not public.
"""

from dataclasses import dataclass

PAPER = ("Z. Wei, K. Jin, X. Zhou: Masked Contrastive Reconstruction for Cross-modal Medical Image-Report Retrieval, "
         "arXiv 2312.15840, 2023")


@dataclass(frozen=True)
class Fact:
    """Something the paper states, and where."""

    what: str
    where: str


@dataclass(frozen=True)
class Choice:
    """Something the paper leaves open (as far as it is public): the config keys, our value, the reason."""

    keys: tuple[str, ...]
    value: str
    reason: str


FACTS = (
    Fact("Masked data is the only input of both the contrastive and the two reconstruction tasks", "abstract, Fig. 1b"),
    Fact("The usual framework is two-stream: whole data for the contrastive task, masked data for reconstruction",
         "abstract, Fig. 1a"),
    Fact("Images are masked by 50 %, reports by 25 %", "Fig. 2"),
    Fact("Encoders E_v, E_r give masked local features f^v, f^r; F_{v→s}, F_{r→s} map them to a common space; only "
         "then are they aggregated to S^v, S^r (Mapping before Aggregation, MbA)", "Fig. 2"),
    Fact("Decoders D_v, D_r reconstruct the inputs from f^v, f^r", "Fig. 2"),
    Fact("Three losses: L_vrc (cross-modal consistency), L_mim (image), L_mrm (report)", "Fig. 2"),
    Fact("Retrieval is shown for K = 1…10 by BLEU-4, METEOR, ROUGE-L and CIDEr", "Fig. 3"),
    Fact("The modality gap is shown for AbM and MbA on the validation set", "Fig. 4"),
)

CLAIMS = (
    Fact("State-of-the-art image–report retrieval on MIMIC-CXR", "abstract"),
    Fact("One masked input lessens the competition between the tasks", "abstract"),
    Fact("Much less GPU memory and training time than the two-stream framework", "abstract"),
    Fact("MbA aligns the modalities better than aggregating before mapping (AbM)", "abstract, Fig. 4 and 5"),
)

CHOICES = (
    Choice(("embed_dim", "depth", "patch_size", "img_size"), "ViT-B/16 at 224 (base profile)",
           "the common size of the neighbours (MaCo, MRM, MGCA)"),
    Choice(("text_embed_dim", "text_depth", "max_text_length"), "BERT-base, 128 tokens", "MGCA, GLoRIA: 97–112 words"),
    Choice(("image_weights", "text_weights"), "random, unless given",
           "the initialisation is not stated, and a run must not need the network"),
    Choice(("in_chans",), "1", "radiographs are grey; RGB weights are summed over channels"),
    Choice(("projection",), "a perceptron with one hidden layer per token",
           "a linear map would make MbA and AbM the same function (our null control)"),
    Choice(("pooling",), "mean over all patches; over all tokens of the report, [CLS], [SEP] and [MASK] among them",
           "the simplest aggregation; the demo profile takes the maximum, with which a small model learns in minutes"),
    Choice(("common_dim", "temperature"), "512; learned, from 0.07", "CXR-CLIP, CLIP"),
    Choice(("contrastive_weight", "image_reconstruction_weight", "text_reconstruction_weight"), "1 : 1 : 1",
           "the neighbours' default (MRM, ALTA)"),
    Choice(("norm_pix",), "L_mim is the squared error of the removed patches, each normalised", "MAE, MRM"),
    Choice(("mlm_probability",), "a chosen token always becomes [MASK]; L_mrm scores chosen tokens only", "MRM"),
    Choice(("decoder_embed_dim", "decoder_depth"), "image decoder 512 wide, 4 blocks",
           "half of MAE's depth; each removed patch costs a decoder pass"),
    Choice(("text_decoder_depth",), "report decoder of one block", "f^r has seen the whole report already"),
    Choice(("dropout",), "0", "the masks are the noise; and a run is the same on any number of processes"),
    Choice(("learning_rate", "betas", "weight_decay", "warmup"), "AdamW (0.9, 0.95), warm-up, cosine to 0",
           "MAE, MaCo, MRM"),
    Choice(("batch_size", "epochs"), "256 pairs, 50 epochs (base profile)", "MGCA, CMITM: 50 epochs"),
    Choice(("augment",), "zoom 80–100 %, turn ±5°, contrast, brightness; never a flip",
           "left and right are findings"),
    Choice(("views",), "frontal images", "MGCA"),
    Choice(("text policy",), "findings, then impression", "MGCA uses both; set when the data set is prepared"),
    Choice(("evaluation input",), "whole images and reports; masked beside it", "FLIP: masked inference costs recall"),
    Choice(("protocol",), "text-identical: identical reports are one", "CXR-CLIP merges them before ranking"),
)


def markdown() -> str:
    """Both lists as Markdown tables: what the README and the notebooks show."""
    lines = [f"**What the paper says** ({PAPER})", "", "| fact | where |", "|---|---|"]
    lines += [f"| {fact.what} | {fact.where} |" for fact in FACTS]
    lines += ["", "**What we chose, where the public part of the paper is silent**", "",
              "| setting | value | reason |", "|---|---|---|"]
    lines += [f"| {', '.join(f'`{key}`' if ' ' not in key else key for key in c.keys)} "
              f"| {c.value} | {c.reason} |" for c in CHOICES]
    return "\n".join(lines)
