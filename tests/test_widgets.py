"""Widgets without a browser: what each shows for which input, escaping, labels, alt text, errors in the status line,
the static view, and the time an interaction takes. Not here: a real front end (test_browser.py)."""

import base64
import datetime
import html.parser
import io
import re
import time

import ipywidgets
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from kit import explore, explorers, widgets
from kit.markup import marked_html
from mcr_lib.data import PairData
from mcr_lib.features import QueryError, encode_pairs, encode_texts
from mcr_lib.index import HIT_COLUMNS, Index
from mcr_lib.question import WITHOUT, combine
from mcr_lib.run import load_run
from mcr_lib.search import build_index

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def loaded(smoke_run, phantom):
    """(model, tokenizer, index of the test split, its pairs)."""
    model, tokenizer = load_run(smoke_run)
    index = build_index(smoke_run, phantom, split="test", device=CPU)
    return model, tokenizer, index, PairData(phantom, "test", tokenizer, model.config)


@pytest.fixture
def explorer(loaded):
    model, tokenizer, index, pairs = loaded
    masked = Index(*encode_pairs(model, pairs, CPU, masked=True), index.table, index.model_hash)
    return widgets.RetrievalExplorer(
        {
            "MbA": explore.Searcher(index, model, tokenizer),
            "MbA, masked": explore.Searcher(masked, model, tokenizer, masked=True),
        },
        sentence="Small right pleural effusion.",
        k=4,
    )


def upload(name: str, content: bytes) -> tuple:
    """What FileUpload holds when a file was chosen."""
    now = datetime.datetime.now(datetime.UTC)
    return (
        {
            "name": name,
            "type": "",
            "size": len(content),
            "content": memoryview(content),
            "last_modified": now,
        },
    )


def as_png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def text_of(markup: str) -> str:
    """The text a reader sees; also a check that tags are closed in order."""

    class Reader(html.parser.HTMLParser):
        text = ""

        def handle_starttag(self, tag, attrs):
            if tag not in ("img", "br"):
                self.open_tags.append(tag)

        def handle_endtag(self, tag):
            assert self.open_tags.pop() == tag

        def handle_data(self, data):
            self.text += data

    reader = Reader()
    reader.open_tags = []
    reader.feed(markup)
    assert not reader.open_tags
    return reader.text


def test_a_sentence_finds_what_the_index_finds(explorer, loaded):
    model, tokenizer, index, _ = loaded
    query = encode_texts(model, tokenizer, ["Small right pleural effusion."])[0]
    hits = index.search(query, k=4, among="images")
    shown = re.findall(r"<b>\d+\. (-?\d\.\d{3})</b>", explorer.picture.value)
    assert shown == [f"{hit.score:.3f}" for hit in hits]
    assert all(f'alt="image {hit.pair_id}' in explorer.picture.value for hit in hits)
    assert all(hit.report in text_of(explorer.picture.value) for hit in hits)
    assert (
        'role="status"' in explorer.status.value
        and f"the best 4 of {len(index)}" in explorer.status.value
    )


def test_an_image_finds_reports_and_its_own_is_marked(explorer, loaded):
    index = loaded[2]
    explorer.inputs["k"].value = 10
    explorer.inputs["image"].value = 3
    feature = index.features["images"][3]
    hits = index.search(feature, k=10, among="texts", per="report")
    own = [hit.report == index.table.at[3, "report"] for hit in hits]
    items = re.findall(r"<li.*?</li>", explorer.picture.value, flags=re.S)
    assert ["its own report" in item for item in items] == own
    assert explorer.inputs["word"].options[0] == ("the whole text", explore.WHOLE)
    assert [
        label.split(". ", 1)[1] for label, _ in explorer.inputs["word"].options[1:4]
    ] == re.findall(r"\w+|[^\w\s]", hits[0].report)[:3]


def test_words_light_different_patches(explorer):
    before = explorer.picture.value
    explorer.inputs["word"].value = 3
    assert explorer.picture.value != before and "⚠" not in explorer.status.value
    explorer.inputs["sentence"].value = "Heart size is normal."
    assert explorer.inputs["word"].value == explore.WHOLE
    assert [label for label, _ in explorer.inputs["word"].options][1:] == [
        "1. Heart",
        "2. size",
        "3. is",
        "4. normal",
        "5. .",
    ]


def test_masked_search_masks_the_query(explorer):
    explorer.inputs["model"].value = "MbA, masked"
    assert 'title="masked"' in explorer.picture.value.split("</p>")[0]
    assert "⚠" not in explorer.status.value
    explorer.inputs["image"].value = 2
    assert "⚠" not in explorer.status.value


def test_masked_queries_are_masked_as_the_gallery_was(explorer):
    """Asked with its own image or report, a masked gallery answers with a cosine of one."""
    searcher = explorer.searchers["MbA, masked"]
    for row in (0, 5):
        feature = searcher.look(searcher.pixels(row), row).feature
        assert torch.allclose(feature, searcher.index.features["images"][row], atol=1e-4)
        read = searcher.read(searcher.index.table.at[row, "report"], row)
        assert torch.allclose(read.feature, searcher.index.features["texts"][row], atol=1e-4)
        assert torch.allclose(read.vectors.mean(0), read.feature, atol=1e-4)


def test_uploads_are_answered_or_refused(explorer):
    explorer.inputs["upload"].value = upload(
        "mine.png", as_png(np.arange(60_000).reshape(300, 200).astype(np.uint8))
    )
    assert "your image" in explorer.picture.value and "⚠" not in explorer.status.value
    before = explorer.picture.value
    explorer.inputs["upload"].value = upload("<i>no.png", b"not an image")
    assert "&lt;i&gt;no.png cannot be used as an image" in explorer.status.value
    assert 'role="status"' in explorer.status.value and explorer.picture.value == before
    explorer.inputs["sentence"].value = "   "
    assert "the query is empty" in explorer.status.value
    explorer.inputs["sentence"].value = "effusion"
    assert "⚠" not in explorer.status.value


def test_conditions_and_negation_and_one_hit_each(explorer, loaded):
    """Each input changes the answer as `ask` would: a filter or a negation that is ignored fails here."""
    model, tokenizer, index, _ = loaded
    before = explorer.picture.value
    explorer.inputs["where"].value = f"patient_id!={index.table.patient_id[0]}; view=frontal"
    query = encode_texts(model, tokenizer, ["Small right pleural effusion."])[0]
    where = [f"patient_id!={index.table.patient_id[0]}", "view=frontal"]
    hits = index.search(query, k=4, among="images", where=where)
    assert all(f'alt="image {hit.pair_id}' in explorer.picture.value for hit in hits)
    explorer.inputs["where"].value = "ward=7"
    assert (
        "no column &#39;ward&#39;" in explorer.status.value
        or "no column 'ward'" in explorer.status.value
    )
    explorer.inputs["where"].value = ""
    assert explorer.picture.value == before
    explorer.inputs["without"].value = hits[0].report
    parts = [(query, 1.0), (encode_texts(model, tokenizer, [hits[0].report])[0], WITHOUT)]
    fewer = index.search(combine(parts, index.features["images"]), k=4, among="images")
    assert all(f'alt="image {hit.pair_id}' in explorer.picture.value for hit in fewer)
    explorer.inputs["without"].value = ""
    explorer.inputs["per"].value = "patient_id"
    explorer.inputs["k"].value = 50
    patients = re.findall(r"patient (\S+) ·", explorer.picture.value)
    assert len(patients) == len(set(patients)) == index.table.patient_id.nunique()


def test_both_together_and_what_is_stale_is_cleared(explorer):
    explorer.inputs["upload"].value = upload(
        "mine.png", as_png(np.arange(60_000).reshape(300, 200).astype(np.uint8))
    )
    assert explorer.inputs["ask"].value == "image" and "your image" in explorer.picture.value
    explorer.inputs["ask"].value = "both"
    both = explorer.picture.value
    assert "Small" in both and "⚠" not in explorer.status.value
    explorer.inputs["sentence"].value = "Cardiomegaly."
    assert explorer.inputs["ask"].value == "both" and explorer.picture.value != both
    explorer.inputs["ask"].value = "sentence"
    assert explorer.inputs["upload"].value == (), "an image that is no longer asked with is gone"
    assert "your image" not in explorer.picture.value


def test_an_earlier_question_comes_back(explorer):
    first = explorer.picture.value
    explorer.inputs["sentence"].value = "Cardiomegaly."
    explorer.inputs["image"].value = 3
    names = [name for name, _ in explorer.inputs["earlier"].options]
    assert names[0] == "–" and "Cardiomegaly." in names[2] and len(names) == 4
    explorer.inputs["earlier"].value = explorer.inputs["earlier"].options[3][1]
    assert explorer.picture.value == first and explorer.inputs["ask"].value == "sentence"


def test_an_image_unlike_the_gallery_is_said(loaded):
    """A gallery whose images are all alike, and one that is not."""
    model, tokenizer, index, _ = loaded
    towards = F.normalize(index.features["images"].mean(0), dim=0)
    alike = F.normalize(index.features["images"] + 20 * towards, dim=1)
    searcher = explore.Searcher(
        Index(alike, index.features["texts"], index.table, "x"), model, tokenizer
    )
    assert searcher.for_image(0).notes == ()
    (note,) = searcher.for_image(
        np.random.default_rng(0).integers(0, 255, (73, 73), dtype=np.uint8)
    ).notes
    assert "unlike those of the gallery" in note


def test_hits_can_be_saved_as_a_table(explorer):
    csv = re.search(r'href="data:text/csv;base64,([^"]+)"', explorer.picture.value)[1]
    table = pd.read_csv(io.BytesIO(base64.b64decode(csv)))
    assert len(table) == 4 and {"rank", "score", "pair_id", "study_id", "report"} <= set(
        table.columns
    )


def test_glow_can_be_turned_off(explorer):
    lit = explorer.picture.value
    explorer.inputs["glow"].value = False
    plain = explorer.picture.value
    assert plain != lit
    explorer.inputs["word"].value = 1
    assert explorer.picture.value == plain, "which word would glow does not matter then"


def test_a_dicom_is_an_image(explorer, tmp_path):
    pydicom = pytest.importorskip("pydicom")
    dataset = pydicom.dataset.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = pydicom.uid.SecondaryCaptureImageStorage, "1.2.3"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel, dataset.BitsAllocated = 40, 30, 1, 8
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 7, 0
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelData = np.arange(1200, dtype=np.uint8).tobytes()
    dataset.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    explorer.inputs["upload"].value = upload("x.dcm", (tmp_path / "x.dcm").read_bytes())
    assert "your image" in explorer.picture.value and "⚠" not in explorer.status.value


def test_reports_are_escaped_everywhere(loaded):
    model, tokenizer, index, _ = loaded
    evil = index.table.assign(report="<script>alert(1)</script> effusion & <b>", labels="<u>x")
    searcher = explore.Searcher(
        Index(index.features["images"], index.features["texts"], evil, "x"), model, tokenizer
    )
    shown = [searcher.for_text("<script>", 2), searcher.for_image(0, 2)]
    word = explorers.WordExplorer(searcher, 0)
    heat = explorers.TemperatureExplorer(torch.tensor([0.1, 0.2]), 0, ["<script>", "b"])
    for markup in [answer.html for answer in shown] + [word.picture.value, heat.picture.value]:
        assert not re.search("<(script|u|alert)", markup) and "<script>" in text_of(markup)


def test_without_a_model_the_gallery_can_still_be_searched(loaded):
    plain = widgets.RetrievalExplorer(loaded[2], k=3)
    assert plain.picture.value.count("<li") == 3 and "⚠" not in plain.status.value
    plain.inputs["sentence"].value = "effusion"
    assert "no model to read a sentence" in plain.status.value
    with pytest.raises(QueryError, match="no model to look at an image"):
        explore.Searcher(loaded[2]).for_image(np.zeros((8, 8), np.uint8))


def test_what_went_wrong_is_said_not_swallowed(loaded):
    class Broken(widgets.Explorer):
        def draw(self, x):
            if x == 2:
                raise KeyError("of ours")
            return "fine", "drawn"

    broken = Broken("Broken", x=ipywidgets.IntSlider(1, 0, 3, description="X"))
    broken.inputs["x"].value = 2
    assert "KeyError" in broken.status.value and broken.picture.value == "fine"


@pytest.fixture
def all_of_them(explorer, loaded):
    model, tokenizer, _, pairs = loaded
    images, texts = encode_pairs(model, pairs, CPU)

    def shift(images, texts, amount):
        gap = images.mean(0) - texts.mean(0)
        return F.normalize(images - amount / 2 * gap, dim=1), F.normalize(
            texts + amount / 2 * gap, dim=1
        )

    return [
        explorer,
        explorers.WordExplorer(explorer.searchers["MbA"], 0),
        explorers.MaskingExplorer(pairs.batch(np.arange(4), CPU), tokenizer, model.config),
        explorers.GapExplorer(images, texts, pairs.table, shift),
        explorers.TemperatureExplorer(images[0] @ texts.T, 0, pairs.table["report"].tolist()),
    ]


def test_every_input_has_a_label_and_every_image_alt_text(all_of_them):
    for explorer in all_of_them:
        assert all(control.description for control in explorer.inputs.values())
        assert all(
            re.search(r'alt="[^"]+"', tag)
            for tag in re.findall(r"<img[^>]*>", explorer.picture.value)
        )


def test_the_static_view_needs_nothing_else(all_of_them, monkeypatch):
    for explorer in all_of_them:
        assert set(explorer._repr_mimebundle_()) == {
            "text/plain",
            "text/html",
        }  # batch: no blank widget
    monkeypatch.setattr(widgets, "interactive", lambda: True)
    for explorer in all_of_them:
        bundle = explorer._repr_mimebundle_()
        page = bundle["text/html"]
        assert "application/vnd.jupyter.widget-view+json" in bundle
        assert (
            explorer.picture.value in page
            and "as it stood" in page
            and explorer.title in bundle["text/plain"]
        )
        assert "<script" not in page and not re.search(r'(src|href)="(?!data:)', page)
        text_of(page)


def test_sliders_do_what_they_say(all_of_them):
    _, word, masking, gap, temperature = all_of_them
    word.inputs["word"].value = 2
    assert f"word: {word.report.names()[2]}" in word.status.value
    masking.inputs["image"].value, masking.inputs["report"].value = 75, 0
    assert "4 of 16 patches seen, 0 of" in masking.status.value
    distance = [float(re.search(r"gap (\d\.\d+)", gap.status.value)[1])]
    gap.inputs["amount"].value = 1.0
    distance.append(float(re.search(r"gap (\d\.\d+)", gap.status.value)[1]))
    assert distance[1] < distance[0] / 2
    losses = []
    for value in (0.01, 3.0):
        temperature.inputs["temperature"].value = value
        losses.append(float(re.search(r"image: (\d+\.\d+)", temperature.status.value)[1]))
    assert losses[1] == pytest.approx(np.log(len(temperature.labels)), abs=0.05)
    assert all("⚠" not in explorer.status.value for explorer in all_of_them)


def test_marks_follow_the_weights():
    text = "No left effusion."
    spans = [(0, 2), (3, 7), (8, 16), (16, 17)]
    marked = marked_html(text, spans, [-1, 0.5, 1.0, 9.0])
    assert marked == (
        'No <mark style="background:rgba(213,94,0,0.28);color:inherit">left</mark> '
        '<mark style="background:rgba(213,94,0,0.55);color:inherit">effusion</mark>.'
    )
    assert "<mark" not in marked_html(text, spans, [-1, -2, 0, 1])
    assert 'title="masked"' in marked_html(text, spans, [0, float("nan"), 0, 0])


@pytest.mark.parametrize("pairs, width", [(600, 128), (100_000, 128)])
def test_an_interaction_takes_under_200_ms(loaded, pairs, width):
    """The demo's model and gallery on one core: the median of several interactions, each with something new to look at.

    Seconds of the processor, not of the clock, for other processes may be busy while tests run.
    """
    model, tokenizer, small, _ = loaded
    from mcr_lib.config import resolve
    from mcr_lib.model import MCR

    torch.manual_seed(0)
    demo = resolve("demo", {"vocab_size": len(tokenizer)}).model.model_copy(
        update={key: getattr(model.config, key) for key in ("special_token_ids", "mask_token_id")}
    )
    table = pd.concat([small.table] * (pairs // len(small) + 1), ignore_index=True).head(pairs)[
        list(HIT_COLUMNS)
    ]
    features = [F.normalize(torch.randn(pairs, width), dim=1) for _ in range(2)]
    large = widgets.RetrievalExplorer(Index(*features, table, "x"), MCR(demo).eval(), tokenizer)
    seconds, threads = [], torch.get_num_threads()
    torch.set_num_threads(1)
    for name, value in [
        ("sentence", "effusion"),
        ("sentence", "left rib fracture"),
        ("image", 7),
        ("k", 8),
        ("word", 1),
        ("image", 40),
        ("sentence", "pacemaker"),
    ]:
        start = time.process_time()
        large.inputs[name].value = value
        seconds.append(time.process_time() - start)
        assert "⚠" not in large.status.value
    torch.set_num_threads(threads)
    assert sorted(seconds)[len(seconds) // 2] < 0.2, seconds
