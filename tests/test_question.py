"""Questions: what is combined, left out, filtered and named, and how many at once; in Python and on the command line.

Not here: exact search and filters against a plain loop (test_index.py), conditions (test_conditions.py).
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from data_prep.__main__ import app as prepare
from data_prep.commands import run_app
from mcr_lib import ranking
from mcr_lib.__main__ import app
from mcr_lib.config import resolve
from mcr_lib.encoder import render_text
from mcr_lib.features import encode_pictures, encode_texts
from mcr_lib.question import Question, Searching, ask, combine, name_duplicates
from mcr_lib.run import load_run, train_run
from mcr_lib.search import build_index

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def asked(phantom, smoke_run, tmp_path_factory):
    """ask(Question, Searching) → hits, notes; with the model, its tokenizer and the index."""
    run = tmp_path_factory.mktemp("question") / "run"
    shutil.copytree(smoke_run, run, ignore=shutil.ignore_patterns("index"))
    model, tokenizer = load_run(run)
    index = build_index(run, phantom, device=CPU)

    def question(how=None, **parts):
        notes, how = [], how or Searching()
        return ask(model, tokenizer, index, Question(**parts), how, notes.append), notes

    question.model, question.tokenizer, question.index, question.run = model, tokenizer, index, run
    return question


def test_a_sentence_finds_images_and_an_image_distinct_reports(asked):
    hits, notes = asked(text="large effusion")
    query = encode_texts(asked.model, asked.tokenizer, ["large effusion"])[0]
    assert hits == asked.index.search(query, 5, "images") and not notes
    path = Path(hits[0].image_path)
    hits, _ = asked(Searching(k=40), image=path)
    assert len({ranking.normal_text(hit.report) for hit in hits}) == 40
    (query,) = encode_pictures(asked.model, [path])
    expected = asked.index.search(query, 40, "texts", per="report")
    assert hits == expected


def test_one_finds_the_kind_one_asks_for(asked):
    path = Path(asked.index.table.image_path[0])
    hits, _ = asked(Searching(among="images"), image=path)
    assert hits[0].image_path == str(path) and hits[0].score == pytest.approx(1, abs=1e-5)
    hits, _ = asked(Searching(among="texts"), text=asked.index.table.report[3])
    assert hits[0].score == pytest.approx(1, abs=1e-5)


def test_the_weight_leads_from_the_sentence_to_the_image(asked):
    path = Path(asked.index.table.image_path[7])
    both = {"text": "large effusion", "image": path}
    only_text, only_image = (
        asked(text="large effusion")[0],
        asked(Searching(among="images"), image=path)[0],
    )
    for weight, expected in ((0.0, only_text), (1.0, only_image)):
        hits, _ = asked(image_weight=weight, **both)
        assert [hit.row for hit in hits] == [hit.row for hit in expected]
    assert [hit.row for hit in asked(**both)[0]] not in (
        [h.row for h in only_text],
        [h.row for h in only_image],
    )


def test_parts_of_different_spread_count_alike():
    """In a gallery that varies ten times more along one part, half a weight each is still half each."""
    gallery = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [10.0, 1, 1, 1]
    )
    first, second = torch.eye(4)[:2]
    query = combine([(first, 0.5), (second, 0.5)], gallery)
    scores = gallery @ query
    shares = [
        torch.corrcoef(torch.stack([scores, gallery @ part]))[0, 1] for part in (first, second)
    ]
    assert abs(shares[0] - shares[1]) < 0.05 and min(shares) > 0.6
    assert combine([(first, 1.0)], gallery) is first


def test_what_hits_should_not_be_like_sinks():
    """Of images that show A, B or both, 'A without B' finds those with A alone first."""
    has = torch.tensor([[1, 0], [0, 1], [1, 1], [0, 0]] * 10).float()
    noise = 0.05 * torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    gallery = F.normalize(F.pad(has, (0, 6)) + noise + torch.eye(8)[7], dim=1)
    a, b = torch.eye(8)[:2]
    best = (gallery @ combine([(a, 1.0), (b, -0.5)], gallery)).topk(10).indices
    assert has[best].tolist() == [[1, 0]] * 10
    best = (gallery @ a).topk(10).indices
    assert has[best, 1].sum() > 0 or (gallery @ a)[2] > 0.5, (
        "without it those with both are found, too"
    )


def test_without_changes_the_answer_and_an_empty_one_is_refused(asked):
    plain, _ = asked(Searching(k=20), text="large effusion")
    hits, _ = asked(Searching(k=20), text="large effusion", without=plain[0].report)
    assert [hit.row for hit in hits] != [hit.row for hit in plain]


def test_conditions_patients_and_own_patient(asked):
    table = asked.index.table
    hits, _ = asked(Searching(k=9, where=["split=test"], per="patient_id"), text="large effusion")
    assert {hit.split for hit in hits} == {"test"}
    assert len({hit.patient_id for hit in hits}) == len(hits)
    path = Path(table.image_path[0])
    how = Searching(k=len(table), among="images", other_patients=True)
    hits, notes = asked(how, image=path)
    assert table.patient_id[0] not in {hit.patient_id for hit in hits} and not notes
    assert len(hits) == (table.patient_id != table.patient_id[0]).sum()


def test_an_image_from_elsewhere_leaves_no_patient_out_and_says_so(asked, tmp_path):
    image = Image.open(asked.index.table.image_path[0]).rotate(180)
    image.save(tmp_path / "other.png")
    hits, notes = asked(Searching(other_patients=True), image=tmp_path / "other.png")
    assert len(hits) == 5 and "none of this data set" in notes[0]


def test_nearly_the_same_picture_is_named(asked, tmp_path):
    hits, _ = asked(text="large effusion")
    again = tmp_path / "again.jpg"
    Image.open(hits[0].image_path).convert("L").save(again, quality=70)
    twice = name_duplicates([hits[0], hits[1], replace(hits[2], image_path=str(again))])
    assert [hit.same_as for hit in twice] == [None, None, 1]


def search(capsys, asked, phantom, *arguments):
    """→ exit status, stdout, stderr of python -m mcr_lib search."""
    where = ["--run", str(asked.run), "--data", str(phantom), "--device", "cpu"]
    status = run_app(app, "mcr_lib", ["search", *where, *map(str, arguments)])
    return status, *capsys.readouterr()


@pytest.mark.parametrize(
    "end, read", [("csv", pd.read_csv), ("json", pd.read_json), ("parquet", pd.read_parquet)]
)
def test_many_sentences_give_one_table(asked, phantom, tmp_path, capsys, end, read):
    (tmp_path / "asked.txt").write_text("large effusion\n\neffusion ☃ ☃ ☃\nno acute disease\n")
    out = tmp_path / f"hits.{end}"
    status, stdout, _ = search(
        capsys, asked, phantom, "--texts", tmp_path / "asked.txt", "-k", 3, "--out", out
    )
    table = read(out)
    assert status == 0 and f"{len(table)} rows" in stdout
    assert table.asked.value_counts().to_dict() == {
        "large effusion": 3,
        "no acute disease": 3,
        "effusion ☃ ☃ ☃": 1,
    }
    unanswered = table[table.asked.str.contains("☃")].iloc[0]
    assert pd.isna(unanswered["rank"]) and "unknown" in str(unanswered.notes)
    assert {"study_id", "view", "patient_id", "report", "score"} <= set(table.columns)


def test_a_folder_of_images_with_one_that_is_none(asked, phantom, tmp_path, capsys):
    for row in (0, 1):
        shutil.copy(asked.index.table.image_path[row], tmp_path)
    (tmp_path / "zz.png").write_text("no picture")
    status, stdout, _ = search(capsys, asked, phantom, "--images", tmp_path, "-k", 2, "--json")
    rows = json.loads(stdout)
    assert status == 0 and [row.get("rank") for row in rows] == [1, 2, 1, 2, None]
    assert "zz.png" in rows[-1]["notes"][0]


def test_hits_are_printed_two_lines_each_and_what_has_no_answer_says_why():
    one = {"rank": 1, "score": 0.98765, "image_path": "a.png", "labels": "a|b", "same_as": None}
    two = one | {"rank": 2, "score": -0.1, "report": "so " * 99, "same_as": 1}
    one |= {"report": "x  <y>\n & z", "patient_id": "p7", "study_id": "s9", "view": ""}
    unanswered = {"asked": "☃", "notes": ["unknown"]}
    rows = [{"asked": "q"} | one, {"asked": "q"} | two, unanswered]
    assert [line for line in render_text("hits.txt", rows=rows).splitlines() if line] == [
        "q",
        "  1  0.988  a.png  [a|b]  patient p7  study s9",
        "           x <y> & z",
        "  2  -0.100  a.png  [a|b]  nearly the picture of 1",
        "           " + "so " * 53 + "…",
        "☃",
        "  –  unknown",
    ]


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "give --text, --image or both"),
        (["--text", "x", "--texts", "file"], "give --text, --image or both"),
        (["--text", "effusion", "--where", "colour=red"], "no column 'colour'"),
        (["--text", "effusion", "--other-patients"], "--other-patients needs an image"),
        (["--text", "effusion", "--per", "ward"], "no column 'ward'"),
        (["--text", "effusion", "--out", "hits.doc"], "written as .csv"),
        (["--text", "effusion", "--among", "sounds"], "sounds"),
        (["--texts", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_a_question_that_cannot_be_asked_is_one_line(asked, phantom, capsys, arguments, words):
    status, stdout, stderr = search(capsys, asked, phantom, *arguments)
    assert status == 2 and not stdout
    assert words in stderr and stderr.count("\n") == 1


def test_filters_reach_the_command_line(asked, phantom, capsys):
    status, stdout, _ = search(
        capsys,
        asked,
        phantom,
        "--text",
        "large effusion",
        "--where",
        "split=validate",
        "--per",
        "study_id",
        "--json",
    )
    hits = json.loads(stdout)
    assert status == 0 and {hit["split"] for hit in hits} == {"validate"}
    assert len({hit["study_id"] for hit in hits}) == 5


# --- on real reports and radiographs


@pytest.fixture(scope="module")
def real(openi, tmp_path_factory):
    """As `asked`, on Open-i, after a training too short to be good: what is tested holds for any model."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "images").mkdir()
    for image in sorted((openi / "images").iterdir())[:600]:
        (folder / "images" / image.name).symlink_to(image.resolve())
    where = ["--reports", openi / "ecgen-radiology", "--images", folder / "images"]
    where += ["--projections", openi / "indiana_projections.csv", "--out", folder / "data"]
    assert run_app(prepare, "data_prep", ["openi", *map(str, where)]) == 0
    train_run(folder / "data", folder / "run", resolve("smoke"), device=CPU, command="tests")
    model, tokenizer = load_run(folder / "run")
    index = build_index(folder / "run", folder / "data", device=CPU)

    def question(how=None, **parts):
        return ask(
            model, tokenizer, index, Question(**parts), how or Searching(), lambda note: None
        )

    question.model, question.tokenizer, question.index = model, tokenizer, index
    return question


@pytest.mark.real
@pytest.mark.slow
def test_every_kind_of_question_on_real_data(real):
    table, k = real.index.table, 30
    plain = real(Searching(k=k), text="cardiomegaly with pleural effusion")
    words = "The lungs are clear."

    def likeness(hits):  # of the images found to the sentence that is not wanted
        unwanted = encode_texts(real.model, real.tokenizer, [words])[0]
        return (real.index.features["images"][[hit.row for hit in hits]] @ unwanted).mean()

    fewer = real(Searching(k=k), text="cardiomegaly with pleural effusion", without=words)
    assert likeness(fewer) < likeness(plain) and fewer != plain, (
        "a negation that is ignored fails here"
    )

    counts = table["labels"].str.split("|").explode().value_counts()
    label = next(label for label in counts.index if label not in ("", "normal"))
    hits = real(Searching(k=k, where=[f"labels={label}"]), text="cardiomegaly")
    assert hits and all(label in hit.labels.split("|") for hit in hits)
    hits = real(Searching(k=k, where=["report~effusion", "view=frontal"]), text="cardiomegaly")
    assert all("effusion" in hit.report.lower() and hit.other["view"] == "frontal" for hit in hits)

    image = Path(table.image_path[5])
    similar = real(Searching(k=3, among="images"), image=image)
    assert similar[0].image_path == str(image)
    others = real(Searching(k=k, among="images", other_patients=True), image=image)
    assert table.patient_id[5] not in {hit.patient_id for hit in others}
    both = real(Searching(k=k), text="cardiomegaly", image=image)
    assert {hit.row for hit in both} & {
        hit.row for hit in real(Searching(k=k, among="images"), image=image)
    }
    reports = real(Searching(k=k), image=image)
    assert len({ranking.normal_text(hit.report) for hit in reports}) == k
    assert all(hit.other["study_id"] for hit in reports)
