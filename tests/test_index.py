"""The search index: top-k lists against the full product in float64, files that are replaced whole, a run's index."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import folder
from data_prep.commands import UsageError
from mcr_lib import ranking, search
from mcr_lib.features import encode_pairs
from mcr_lib.index import Index
from mcr_lib.ranking import TIE, float32_error, top_k

CPU = torch.device("cpu")


def unit(rows, width, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, width, generator=generator, dtype=dtype))


def make_table(count):
    return pd.DataFrame(
        {
            "pair_id": [f"pair{n}" for n in range(count)],
            "patient_id": "p",
            "study_id": "s",
            "image_path": [f"images/{n}.png" for n in range(count)],
            "split": "test",
            "report": [f"report {n % 5}" for n in range(count)],
            "labels": "a|b",
        }
    )


def make_index(count=13, width=8, images=None, texts=None):
    images = unit(count, width) if images is None else images
    texts = unit(count, width, seed=1) if texts is None else texts
    return Index(images, texts, make_table(count), "model-a")


# --- exact top-k


def naive_topk(queries, gallery, k):
    """The rule: float64, rounded to nine decimals; best first, the lower row first among equals."""
    scores = (F.normalize(queries.double()) @ gallery.double().T / TIE).round()  # (Q, G)
    order = [sorted(range(len(gallery)), key=lambda g: (-row[g], g))[:k] for row in scores.tolist()]
    return torch.tensor(order)


def hard_features(kind, rows, width, generator):
    """Unit vectors that low precision cannot tell apart: few, many, or all of them."""
    x = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    some = torch.randint(max(1, rows // 3), (rows,), generator=generator)
    if kind == "constant":
        x[:] = x[0]
    elif kind == "duplicates":
        x = x[some]
    elif kind == "near ties":
        x = x[some] + 1e-7 * x
    elif kind == "clusters":
        x = x[some % 3 % rows] + 1e-3 * x
    elif kind == "ever better":  # sorted towards the first axis: every block beats the last
        x = 0.1 * x
        x[:, 0] = torch.linspace(-3, 3, rows)
    return F.normalize(x).float()


KINDS = ("random", "constant", "duplicates", "near ties", "clusters", "ever better")


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.sampled_from([0, 1, 32]),
    st.integers(1, 150),
    st.integers(1, 12),
    st.sampled_from([2, 5, 17, 67, 513]),
    st.integers(1, 12),
    st.integers(1, 60),
    st.integers(1, 500),
    st.integers(0, 2**20),
)
def test_topk_is_the_rule_whatever_the_features(
    kind, spare, size, n_queries, width, k, block, items, seed
):
    """spare = 0: the candidates alone never suffice, so that all is compared in float64."""
    generator = torch.Generator().manual_seed(seed)
    gallery = hard_features(kind, size, width, generator)
    queries = hard_features(kind, n_queries, width, generator)
    queries = queries + gallery[torch.arange(n_queries) % size]
    rows = torch.arange(size)[torch.rand(size, generator=generator) < 0.7]
    sizes = {"SPARE": spare, "BLOCK": block, "ITEMS": items}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in sizes.items():
            patch.setattr(ranking, name, value)
        scores, found = top_k(queries, gallery, min(k, size), None)
        assert found.equal(naive_topk(queries, gallery, k))
        if len(rows):
            among_rows = top_k(queries, gallery, min(k, len(rows)), rows)[1]
            assert among_rows.equal(rows[naive_topk(queries, gallery[rows], k)])
    exact = (F.normalize(queries.double()) @ gallery.double().T).gather(1, found)
    assert torch.allclose(scores, exact, atol=TIE, rtol=0)


@pytest.mark.parametrize("kind", ["near ties", "constant"])
def test_a_list_chosen_by_float32_alone_would_be_wrong(kind, monkeypatch):
    """Seeds at which candidates without the error bound miss a better item."""
    monkeypatch.setattr(ranking, "SPARE", 1)
    wrong = 0
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        gallery = hard_features(kind, 150, 513, generator)
        queries = hard_features(kind, 8, 513, generator) + gallery[:8]
        expected = naive_topk(queries, gallery, 5)
        assert top_k(queries, gallery, 5)[1].equal(expected)
        with monkeypatch.context() as patch:
            patch.setattr(ranking, "float32_error", lambda width: -1.0)
            wrong += not top_k(queries, gallery, 5)[1].equal(expected)
    assert wrong


@pytest.mark.parametrize("width", [1, 64, 513])
def test_error_bound_holds_and_is_not_idle(width):
    """Random vectors, and the worst for rounding: every entry half-way between two numbers."""
    u = 2.0**-24
    scale = 2.0 ** -math.ceil(math.log2(width**0.5 * (1 + u)))
    half_way = torch.full((1, width), 1 + u, dtype=torch.float64) * scale
    random = unit(200, width, 0, torch.float64), unit(300, width, 1, torch.float64)
    errors = [(a.float() @ b.float().T).double() - a @ b.T for a, b in (random, (half_way,) * 2)]
    largest = max(float(error.abs().max()) for error in errors)
    assert 0.4 * u < largest <= float32_error(width)


def test_precision_that_the_caller_allows_elsewhere_does_not_matter():
    gallery = hard_features("near ties", 97, 64, torch.Generator().manual_seed(0))
    queries = unit(11, 64)
    expected = naive_topk(queries, gallery, 5)
    index = make_index(97, images=gallery, texts=gallery)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert index.topk(queries, k=5)[1].equal(expected)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_no_block_is_larger_than_allowed_and_each_is_read_once(monkeypatch):
    read, original = [], ranking._blocks

    def counted(gallery, rows, n_queries):
        for some, items in original(gallery, rows, n_queries):
            if n_queries > 1:  # not the candidates of a single query
                read.append((n_queries, len(items)))
            yield some, items

    monkeypatch.setattr(ranking, "_blocks", counted)
    monkeypatch.setattr(ranking, "ITEMS", 800)
    make_index(70).topk(unit(50, 8), k=3)
    assert read == [(50, 16)] * 4 + [(50, 6)]


@pytest.mark.parametrize("among", ["images", "texts"])
def test_topk_equals_the_full_product(among):
    index, queries = make_index(19), unit(11, 8, seed=2)
    scores, rows = index.topk(queries, k=4, among=among)
    expected = (queries.double() @ index.features[among].double().T).topk(4)
    assert rows.equal(expected.indices) and torch.allclose(scores, expected.values, atol=1e-6)


@pytest.mark.parametrize("block", [1, 5, 4096])
def test_topk_puts_the_lower_row_first_in_a_tie(block, monkeypatch):
    monkeypatch.setattr(ranking, "BLOCK", block)
    texts = unit(1, 8).repeat(13, 1)
    texts[4] = -texts[4]
    scores, rows = make_index(texts=texts).topk(texts[:1], k=99)
    expected = [[0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 4]]
    assert rows.tolist() == expected, "k capped, the opposite last"
    assert scores[0, 0] == pytest.approx(1) and scores[0, -1] == pytest.approx(-1)


def test_search_returns_hits_with_the_manifest_entries():
    index = make_index()
    hits = index.search(2 * index.features["images"][7], k=3, among="images")
    assert [hit.rank for hit in hits] == [1, 2, 3] and hits[0].score == pytest.approx(1, abs=1e-6)
    assert (hits[0].row, hits[0].pair_id, hits[0].report) == (7, "pair7", "report 2")
    assert (hits[0].image_path, hits[0].labels, hits[0].split) == ("images/7.png", "a|b", "test")
    batch = index.search(index.features["images"][7:9], k=3, among="images")
    assert len(batch) == 2 and batch[0] == hits, "a batch gives a list per query"
    reports = [hit.report for hit in index.search(unit(1, 8)[0], k=9, per="report")]
    assert len(reports) == len(set(reports)) == 5, "distinct: every report once"


def test_an_index_refuses_what_does_not_fit():
    index = make_index()
    with pytest.raises(ValueError, match="do not fit"):
        Index(unit(3, 8), unit(3, 8), index.table, "m")
    with pytest.raises(ValueError, match="lacks the columns report, labels"):
        Index(unit(13, 8), unit(13, 8), index.table.drop(columns=["report", "labels"]), "m")
    with pytest.raises(ValueError, match="expected unit vectors"):
        Index(2 * unit(13, 8), unit(13, 8), index.table, "m")
    with pytest.raises(ValueError, match="'texts' or 'images'"):
        index.search(unit(1, 8)[0], among="audio")
    with pytest.raises(ValueError, match="at least 1"):
        index.search(unit(1, 8)[0], k=0)
    with pytest.raises(ValueError, match="width 4, the index 8"):
        index.search(unit(1, 4)[0])


@pytest.fixture
def archive():
    """60 pairs of 20 patients, whose names, views and ages one may choose by."""
    table = make_table(60)
    table["patient_id"] = [f"p{row % 20}" for row in range(60)]
    table["view"] = ["frontal", "lateral", "frontal"] * 20
    table["age"] = [str(row) for row in range(60)]
    return Index(unit(60, 8), unit(60, 8, 1), table, "m")


@pytest.mark.parametrize("among", ["images", "texts"])
@pytest.mark.parametrize("per", [None, "patient_id", "report"])
@pytest.mark.parametrize("where", [[], ["view=frontal"], ["age>=7", "patient_id!=p3"]])
def test_filters_and_one_hit_each_as_a_plain_loop_finds_them(archive, among, per, where):
    queries = unit(5, 8, seed=9)
    keep = [
        row
        for row, entry in archive.table.iterrows()
        if "view=frontal" not in where or entry["view"] == "frontal"
        if "age>=7" not in where or (int(entry["age"]) >= 7 and entry["patient_id"] != "p3")
    ]
    scores = queries.double() @ archive.features[among].double().T
    for query, hits in enumerate(archive.search(queries, 7, among, per=per, where=where)):
        expected, seen = [], set()
        for row in sorted(keep, key=lambda row: (-round(float(scores[query, row]), 9), row)):
            group = row if per is None else archive.table.at[row, per]
            if group not in seen:
                seen.add(group)
                expected.append(row)
        assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
        if per != "report":
            assert [hit.row for hit in hits] == expected[:7]
        else:
            assert len({hit.report for hit in hits}) == len(hits)


def test_a_hit_names_every_column(archive):
    (hit,) = archive.search(unit(1, 8)[0], 1, where=["age=17"])
    assert hit.patient_id == "p17" and hit.other["view"] == "frontal" and hit.other["age"] == "17"


def test_what_cannot_be_chosen_by_is_said(archive):
    with pytest.raises(UsageError, match="no column 'ward'"):
        archive.search(unit(1, 8)[0], per="ward")
    with pytest.raises(UsageError, match="view holds: frontal, lateral"):
        archive.search(unit(1, 8)[0], where=["view=oblique"])


# --- an index on disk


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_save_and_load_give_the_same_index(tmp_path, dtype):
    images, texts = unit(40, 8).to(dtype), unit(40, 8, 1).to(dtype)
    index = make_index(40, images=images, texts=texts)
    index.made_for = {"data": "here"}
    for _ in range(2):  # a second time over the first
        index.save(tmp_path / "index")
    files = ["images.npy", "index.json", "table.parquet", "texts.npy"]
    assert sorted(file.name for file in (tmp_path / "index").iterdir()) == files
    assert [file.name for file in tmp_path.iterdir()] == ["index"]
    again = Index.load(tmp_path / "index")
    assert len(again) == 40
    assert (again.model_hash, again.made_for) == ("model-a", {"data": "here"})
    assert again.features["images"].equal(images.to(again.features["images"].dtype))
    query = unit(1, 8, seed=5)[0]
    for how in ({"among": "images"}, {"per": "report"}, {"per": "patient_id", "k": 99}):
        assert again.search(query, **how) == index.search(query, **how)
    pd.testing.assert_frame_equal(again.table, index.table)


def test_an_open_index_is_not_disturbed_by_a_new_one(tmp_path):
    index = make_index(13)
    index.save(tmp_path / "index")
    opened = Index.load(tmp_path / "index")
    make_index(4, images=unit(4, 8, 7)).save(tmp_path / "index")
    assert len(Index.load(tmp_path / "index")) == 4
    assert opened.features["images"].equal(index.features["images"])


def test_a_damaged_or_mixed_index_is_one_clear_line(tmp_path):
    with pytest.raises(ValueError, match=r"no index here, index\.json"):
        Index.load(tmp_path)
    here = tmp_path / "a"

    def load_damaged(name, content):
        make_index(13).save(here)
        (here / name).write_bytes(content)
        return Index.load(here)

    make_index(11).save(tmp_path / "b")
    for name in ("index.json", "texts.npy", "table.parquet"):
        with pytest.raises(ValueError, match="not of one index"):
            load_damaged(name, (tmp_path / "b" / name).read_bytes())
        whole = (tmp_path / "b" / name).read_bytes()
        for damaged in (b"", b"cut", whole[:-9], b"[1, 2]\n"):
            with pytest.raises(ValueError, match=r"damaged.*build the index again"):
                load_damaged(name, damaged)
    make_index(13).save(here)
    (here / "images.npy").unlink()
    with pytest.raises(ValueError, match=r"damaged.*images\.npy"):
        Index.load(here)


@pytest.mark.parametrize("die_at", [1, 2, 3, 4, 5])
def test_a_kill_in_the_middle_of_writing_leaves_an_old_or_a_new_index(tmp_path, die_at):
    """SIGKILL before each array, the table, index.json and the first rename."""
    old, new = make_index(13), make_index(40)
    old.save(tmp_path / "index")
    child = os.fork()
    if child == 0:
        calls = []

        def dying(original):
            def call(*arguments, **named):
                calls.append(original)
                if len(calls) == die_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*arguments, **named)

            return call

        from mcr_lib import index as module

        module.np.save = dying(module.np.save)
        pd.DataFrame.to_parquet = dying(pd.DataFrame.to_parquet)
        module.own_files.write_json = dying(module.own_files.write_json)
        Path.rename = dying(Path.rename)
        try:
            new.save(tmp_path / "index")
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    again = Index.load(tmp_path / "index")
    assert again.features["images"].equal(old.features["images"])
    pd.testing.assert_frame_equal(again.table, old.table)
    new.save(tmp_path / "index")  # over what the dead one left
    assert len(Index.load(tmp_path / "index")) == 40
    assert [file.name for file in tmp_path.iterdir()] == ["index"]


SEARCH_WITHIN_60_MB = """
import re, resource, sys, torch
from mcr_lib.index import Index
index, queries = Index.load(sys.argv[1]), torch.randn(20, 256)
index.topk(queries, k=3, among="texts")  # threads and buffers of the products are there
data = int(re.search(r"VmData:\\s*(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (data + 60 * 2**20, resource.RLIM_INFINITY))
print(index.topk(queries, k=3, among="images")[1].shape)
try:
    index.features["images"].float()
except RuntimeError:
    print("the whole does not fit")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="bounds the memory by RLIMIT_DATA of Linux")
def test_a_gallery_larger_than_the_memory_can_be_searched(tmp_path):
    """80 MB of vectors, 60 MB to be had beside what the file system caches."""
    features = unit(160_000, 256).half()
    Index(features, features, make_table(160_000), "m").save(tmp_path / "large")
    command = [sys.executable, "-c", SEARCH_WITHIN_60_MB, tmp_path / "large"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.stdout == "torch.Size([20, 3])\nthe whole does not fit\n", done.stderr


# --- the index of a run


@pytest.fixture
def run(smoke_run, tmp_path):
    """A copy of the smoke run without an index: the run is shared with other tests."""
    shutil.copytree(smoke_run, tmp_path / "run", ignore=shutil.ignore_patterns("index"))
    return tmp_path / "run"


@pytest.fixture
def counted(monkeypatch):
    """How many pairs each call of `encode_pairs` by search.py encoded."""
    counts = []

    def encode(model, pairs, device, rows):
        counts.append(len(rows))
        return encode_pairs(model, pairs, device, rows=rows)

    monkeypatch.setattr(search, "encode_pairs", encode)
    return counts


def test_the_index_of_a_run_is_built_once(phantom, run, counted):
    index = search.build_index(run, phantom, split="test", device=CPU)
    assert counted == [len(index)] and (index.table["split"] == "test").all()
    assert all(Path(path).is_absolute() and Path(path).exists() for path in index.table.image_path)
    again = search.build_index(run, phantom, split="test", device=CPU)
    assert len(counted) == 1, "the second time nothing is encoded"
    pd.testing.assert_frame_equal(again.table, index.table)
    whole = search.build_index(run, phantom, device=CPU)
    assert len(whole) == len(folder.read(phantom)), "another index, of all splits"
    assert len(list((run / "index").glob("*/index.json"))) == 2


@pytest.mark.parametrize("change", ["weights", "version", "cut", "no folder"])
def test_an_index_that_does_not_fit_is_built_anew(phantom, run, counted, change):
    index = search.build_index(run, phantom, split="test", device=CPU)
    features = {side: index.features[side].clone() for side in ("images", "texts")}
    (about,) = (run / "index").glob("*/index.json")
    content = json.loads(about.read_text())
    if change == "weights":
        content["model_hash"] = content["made_for"]["weights"] = "another"
        about.write_text(json.dumps(content))
    elif change == "version":  # as it was written before this one
        about.write_text(json.dumps({"pairs": 16, "dtype": "float32", "tables": ["table-1.arrow"]}))
    elif change == "cut":
        (about.parent / "texts.npy").write_bytes(b"cut")
    else:
        shutil.rmtree(run / "index")
    again = search.build_index(run, phantom, split="test", device=CPU)
    assert counted == [len(index)] * 2
    for side, expected in features.items():
        torch.testing.assert_close(again.features[side], expected)
    assert json.loads(about.read_text())["pairs"] == len(index)


def test_of_two_that_ask_at_once_one_builds(phantom, run, counted):
    with ThreadPoolExecutor(2) as pool:
        asked = [
            pool.submit(search.build_index, run, phantom, split="test", device=CPU)
            for _ in range(2)
        ]
        first, second = (one.result() for one in asked)
    assert len(counted) == 1 and first.features["texts"].equal(second.features["texts"])


def test_the_index_of_data_that_have_grown_encodes_only_what_is_new(
    phantom, run, tmp_path, monkeypatch, counted
):
    data = tmp_path / "data"
    shutil.copytree(phantom, data)
    table = folder.read(phantom)

    def set_rows(rows):
        about = folder.read_json(data / "dataset.json")
        rows.to_parquet(data / "manifest.parquet")
        sha256 = folder.content_sha256(data, rows)
        folder.write_json(data / "dataset.json", about | {"sha256": sha256})

    late = table.index[table["split"] == "train"][-30:]
    set_rows(table.drop(late).reset_index(drop=True))
    small = search.build_index(run, data, device=CPU)
    assert sum(counted) == len(small) == len(table) - 30
    in_test = table["split"] == "test"
    table.loc[in_test, "report"] += " No pneumothorax."  # the same images, other reports
    set_rows(table)

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Index, "save", interrupted)
        search.build_index(run, data, device=CPU)
    counted.clear()
    grown = search.build_index(run, data, device=CPU)  # from the old one, which is whole
    assert sum(counted) == 30 + in_test.sum()
    assert len([path for path in (run / "index").iterdir() if path.name != ".lock"]) == 1
    shutil.rmtree(run / "index")
    anew = search.build_index(run, data, device=CPU)
    pd.testing.assert_frame_equal(grown.table, anew.table)
    for side in ("images", "texts"):
        torch.testing.assert_close(grown.features[side], anew.features[side], atol=1e-5, rtol=0)


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device: compares it with the CPU"
)
def test_cuda_finds_the_same(tmp_path):
    index = make_index(97)
    index.save(tmp_path / "index")
    on_gpu = (index.features[side].cuda() for side in ("images", "texts"))
    moved = make_index(97, 8, *on_gpu)
    for one in (moved, Index.load(tmp_path / "index", device="cuda")):
        for rows in (None, index.distinct_rows()):
            expected = index.topk(unit(3, 8), 5, "texts", rows)[1]
            assert one.topk(unit(3, 8).cuda(), 5, "texts", rows)[1].equal(expected)
