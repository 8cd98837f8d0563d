"""The search index: top-k lists against the full product in float64, files that grow and survive a kill, FAISS."""

import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import folder
from mcr_lib import index as index_module
from mcr_lib import index_build, ranking
from mcr_lib.approximate import Approximate
from mcr_lib.index import Index
from mcr_lib.ranking import TIE, error_bound, top_k
from mcr_lib.run_folder import RunError

CPU = torch.device("cpu")


def unit(rows, width, seed=0, dtype=torch.float32):
    return F.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=dtype))


def make_table(count, first=0):
    rows = range(first, first + count)
    return pd.DataFrame({"pair_id": [f"pair{n}" for n in rows], "patient_id": "p", "study_id": "s",
                         "image_path": [f"images/{n}.png" for n in rows], "split": "test",
                         "report": [f"report {n % 5}" for n in rows], "labels": "a|b"})


def make_index(count=13, width=8, images=None, texts=None):
    images = unit(count, width) if images is None else images
    return Index(images, unit(count, width, seed=1) if texts is None else texts, make_table(count), "model-a")


# --- exact top-k

def naive_topk(queries, gallery, k):
    """The rule: every score in float64, rounded to nine decimals; best first, the lower row first among equals."""
    scores = (F.normalize(queries.double()) @ gallery.double().T / TIE).round()              # (Q, G)
    order = [sorted(range(len(gallery)), key=lambda g: (-row[g], g))[:k] for row in scores.tolist()]
    return torch.tensor(order)


def hard_features(kind, rows, width, generator):
    """Unit vectors that low precision cannot tell apart: few, many, or all of them."""
    x = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    if kind == "constant":
        x[:] = x[0]
    elif kind == "duplicates":
        x = x[torch.randint(max(1, rows // 3), (rows,), generator=generator)]
    elif kind == "near ties":
        x = x[torch.randint(max(1, rows // 3), (rows,), generator=generator)] + 1e-7 * x
    elif kind == "clusters":
        x = x[torch.randint(3, (rows,), generator=generator) % rows] + 1e-3 * x
    elif kind == "ever better":                 # sorted towards the first axis: every block beats the last
        x = 0.1 * x
        x[:, 0] = torch.linspace(-3, 3, rows)
    return F.normalize(x).float()


KINDS = ("random", "constant", "duplicates", "near ties", "clusters", "ever better")
LEVELS = ((torch.bfloat16, torch.float32), (torch.float32,), (torch.bfloat16,), ())


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(KINDS), st.sampled_from(LEVELS), st.sampled_from([1, 4, 10**9]), st.integers(1, 150),
       st.integers(1, 12), st.sampled_from([2, 5, 17, 67, 513]), st.integers(1, 12), st.integers(1, 60),
       st.integers(0, 2**20))
def test_topk_is_the_rule_whatever_the_precision(kind, dtypes, few, size, n_queries, width, k, chunk, seed):
    """few = 1: always single scores; 4: also those that the block's own k-th best leaves; 10⁹: always whole blocks."""
    generator = torch.Generator().manual_seed(seed)
    gallery = hard_features(kind, size, width, generator)
    queries = hard_features(kind, n_queries, width, generator) + gallery[torch.arange(n_queries) % size]
    blocks = zip(torch.arange(size).split(chunk), gallery.split(chunk), strict=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "FEW", few)
        scores, rows = top_k(queries, blocks, min(k, size), size, chunk=5, dtypes=dtypes)
    assert rows.equal(naive_topk(queries, gallery, k))
    exact = (F.normalize(queries.double()) @ gallery.double().T).gather(1, rows)
    assert torch.allclose(scores, exact, atol=TIE, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("few", [1, 4])
def test_topk_is_the_rule_where_bfloat16_alone_is_wrong(kind, few, monkeypatch):
    """Seeds at which a list chosen by bfloat16 without the error bound differs from the rule."""
    monkeypatch.setattr(ranking, "FEW", few)
    for seed, width in itertools.product(range(10), (5, 513)):
        generator = torch.Generator().manual_seed(seed)
        gallery = hard_features(kind, 150, width, generator)
        queries = hard_features(kind, 8, width, generator) + gallery[:8]
        blocks = zip(torch.arange(150).split(50), gallery.split(50), strict=True)
        rows = top_k(queries, blocks, 5, 150, chunk=5, dtypes=(torch.bfloat16,))[1]
        assert rows.equal(naive_topk(queries, gallery, 5)), (seed, width)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [1, 64, 513])
def test_error_bound_holds_and_is_not_idle(dtype, width):
    """Random vectors, and the worst ones for rounding: every entry half-way between two numbers of the type."""
    u = torch.finfo(dtype).eps / 2
    half_way = torch.full((1, width), 1 + u, dtype=torch.float64) * 2.0 ** -math.ceil(math.log2(width**0.5 * (1 + u)))
    errors = [(a.to(dtype).float() @ b.to(dtype).float().T).double() - a @ b.T for a, b in (
        (unit(200, width, 0, torch.float64), unit(300, width, 1, torch.float64)), (half_way, half_way))]
    assert 0.4 * u < max(float(error.abs().max()) for error in errors) <= error_bound(dtype, width)


def test_precision_that_the_caller_allows_elsewhere_does_not_matter():
    gallery, queries = hard_features("near ties", 97, 64, torch.Generator().manual_seed(0)), unit(11, 64)
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


def test_no_block_is_larger_than_the_chunk_and_each_is_read_once(monkeypatch):
    shapes, original = [], ranking._take
    monkeypatch.setattr(ranking, "_take", lambda best, unit, gallery, *rest: (
        shapes.append((len(unit), len(gallery))), original(best, unit, gallery, *rest)))
    make_index(70).topk(unit(50, 8), k=3, chunk=16)
    assert shapes == [(q, g) for g in (16, 16, 16, 16, 6) for q in (16, 16, 16, 2)]


@pytest.mark.parametrize("among", ["images", "texts"])
@pytest.mark.parametrize("chunk", [1, 3, 13, 4096])
def test_topk_equals_the_full_product(among, chunk):
    index, queries = make_index(19), unit(11, 8, seed=2)
    scores, rows = index.topk(queries, k=4, among=among, chunk=chunk)
    expected = (queries.double() @ index.features[among].double().T).topk(4)
    assert rows.equal(expected.indices) and torch.allclose(scores, expected.values, atol=1e-6)


def test_topk_puts_the_lower_row_first_in_a_tie():
    texts = unit(1, 8).repeat(13, 1)
    texts[4] = -texts[4]
    for chunk in (1, 5, 4096):
        scores, rows = make_index(texts=texts).topk(texts[:1], k=99, chunk=chunk)
        assert rows.tolist() == [[0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 4]], "k capped, the opposite last"
        assert scores[0, 0] == pytest.approx(1) and scores[0, -1] == pytest.approx(-1)


def test_search_returns_hits_with_the_manifest_entries():
    index = make_index()
    hits = index.search(2 * index.features["images"][7], k=3, among="images")
    assert [hit.rank for hit in hits] == [1, 2, 3] and hits[0].score == pytest.approx(1, abs=1e-6)
    assert (hits[0].row, hits[0].pair_id, hits[0].report) == (7, "pair7", "report 2")
    assert (hits[0].image_path, hits[0].labels, hits[0].split) == ("images/7.png", "a|b", "test")
    batch = index.search(index.features["images"][7:9], k=3, among="images")
    assert len(batch) == 2 and batch[0] == hits, "a batch gives a list per query"
    reports = [hit.report for hit in index.search(unit(1, 8)[0], k=9, distinct=True)]
    assert len(reports) == len(set(reports)) == 5, "distinct: every report once"


def test_save_and_load_give_the_same_index(tmp_path):
    index = make_index()
    for _ in range(2):      # a second time over the first
        index.save(tmp_path / "index")
    assert sorted(file.name.split("-")[0] for file in (tmp_path / "index").iterdir()) == [
        ".lock", "images", "index.json", "table", "texts"]
    again = Index.load(tmp_path / "index")
    assert len(again) == 13 and again.model_hash == "model-a"
    query = unit(1, 8, seed=5)[0]
    assert again.search(query, among="images") == index.search(query, among="images"), "entries from the files"
    assert again.search(query, distinct=True) == index.search(query, distinct=True)
    pd.testing.assert_frame_equal(again.table, index.table)
    assert again.search(query, k=99) == index.search(query, k=99), "entries from the table"


def test_an_index_of_another_model_is_refused():
    make_index().check("model-a")
    with pytest.raises(ValueError, match=r"built by model model-a, the query comes from model model-b"):
        make_index().check("model-b")


def test_a_damaged_or_mixed_index_is_one_clear_line(tmp_path):
    with pytest.raises(ValueError, match=r"no index here, index\.json"):
        Index.load(tmp_path)
    make_index(13).save(tmp_path / "a")
    about = json.loads((tmp_path / "a" / "index.json").read_text())

    def load_with(**changed):
        (tmp_path / "a" / "index.json").write_text(json.dumps(about | changed))
        return Index.load(tmp_path / "a")
    with pytest.raises(ValueError, match=r"rows is missing or cut"):
        load_with(pairs=14)
    with pytest.raises(ValueError, match="not of one index"):
        load_with(pairs=11)
    with pytest.raises(ValueError, match=r"nowhere\.arrow is missing"):
        load_with(tables=["nowhere.arrow"])
    for damage in ({"dtype": "float99"}, {"width": None}):
        with pytest.raises(ValueError, match=r"index\.json is damaged"):
            load_with(**damage)
    (tmp_path / "a" / about["tables"][0]).write_bytes(b"cut")
    with pytest.raises(ValueError, match="table file is damaged"):
        load_with()
    (tmp_path / "a" / "index.json").write_text("{")
    with pytest.raises(ValueError, match=r"index\.json is damaged"):
        Index.load(tmp_path / "a")


def test_an_index_refuses_what_does_not_fit():
    index = make_index()
    with pytest.raises(ValueError, match="do not fit"):
        Index(unit(3, 8), unit(3, 8), index.table, "m")
    with pytest.raises(ValueError, match="lacks the columns report, labels"):
        Index(unit(13, 8), unit(13, 8), index.table.drop(columns=["report", "labels"]), "m")
    with pytest.raises(ValueError, match="expected unit vectors"):
        Index(2 * unit(13, 8), unit(13, 8), index.table, "m")
    for arguments, message in (({"among": "audio"}, "'texts' or 'images'"), ({"k": 0}, "at least 1")):
        with pytest.raises(ValueError, match=message):
            index.search(unit(1, 8)[0], **arguments)
    with pytest.raises(ValueError, match="width 4, the index 8"):
        index.search(unit(1, 4)[0])


# --- an index that grows

def grown(path, sizes, dtype=torch.float32):
    """An index on disk, made of parts of these sizes, and the features it should hold."""
    images, texts, table = (*(unit(sum(sizes), 8, seed).to(dtype) for seed in (0, 1)), make_table(sum(sizes)))
    for first, size in zip([0, *torch.tensor(sizes).cumsum(0).tolist()], sizes, strict=False):
        part = slice(first, first + size)
        if first == 0:
            Index(images[part], texts[part], table[part], "model-a").save(path)
            index = Index.load(path)
        else:
            index.add(images[part], texts[part], table[part], "model-a")
    return index, images, texts, table


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_an_index_built_in_parts_is_the_one_built_at_once(tmp_path, dtype):
    index, images, texts, table = grown(tmp_path / "index", [7, 1, 40, 13], dtype)
    for one in (index, Index.load(tmp_path / "index")):
        assert one.features["images"].equal(images) and one.features["texts"].equal(texts)
        pd.testing.assert_frame_equal(one.table, table)
        for distinct in (False, True):
            for chunk in (1, 9, 8192):
                whole = Index(images, texts, table, "model-a").topk(unit(5, 8, 7), 6, "texts", distinct)
                assert [x.tolist() for x in one.topk(unit(5, 8, 7), 6, "texts", distinct, chunk)] == [
                    x.tolist() for x in whole]


def test_an_open_index_is_not_disturbed_by_an_addition_or_a_new_one(tmp_path):
    index, images, *_ = grown(tmp_path / "index", [13])
    other = Index.load(tmp_path / "index")
    index.add(unit(5, 8, 3), unit(5, 8, 4), make_table(5, 13), "model-a")
    assert (len(other), len(index)) == (13, 18) and other.features["images"].equal(images)
    make_index(4).save(tmp_path / "index")
    assert len(Index.load(tmp_path / "index")) == 4 and index.features["images"][:13].equal(images)
    other = Index.load(tmp_path / "index")
    with pytest.raises(ValueError, match="in memory only"):
        make_index().add(unit(5, 8), unit(5, 8), make_table(5), "model-a")
    for change, message in (((unit(2, 9), unit(2, 9), make_table(2), "model-a"), "width 8, what is added 9"),
                            ((unit(2, 8), unit(2, 8), make_table(2), "model-b"), "comes from model model-b"),
                            ((unit(2, 8), unit(2, 8), make_table(2).assign(view="PA"), "model-a"), "view"),
                            ((unit(2, 8), unit(2, 8), make_table(2).assign(study_id=1), "model-a"), "study_id"),
                            ((unit(2, 8), unit(3, 8), make_table(2), "model-a"), "do not fit")):
        with pytest.raises(ValueError, match=message):
            other.add(*change)
        assert len(Index.load(tmp_path / "index")) == 4


def test_two_processes_that_add_at_once_lose_nothing(tmp_path):
    first, *_ = grown(tmp_path / "index", [3])
    second = Index.load(tmp_path / "index")           # both know three rows
    first.add(unit(4, 8, 3), unit(4, 8, 4), make_table(4, 3), "model-a")
    second.add(unit(5, 8, 5), unit(5, 8, 6), make_table(5, 7), "model-a")
    assert len(second) == 12 and second.features["texts"][3:7].equal(unit(4, 8, 4))
    assert second.table["pair_id"].tolist() == [f"pair{n}" for n in range(12)]


@pytest.mark.parametrize("die_at", [1, 2, 3, 4, 5])
def test_a_kill_in_the_middle_of_an_addition_leaves_the_old_index_whole(tmp_path, die_at):
    """SIGKILL as each of the four files is about to be synced, and just before the new index.json counts."""
    index, images, texts, table = grown(tmp_path / "index", [13])
    child = os.fork()
    if child == 0:
        calls, sync, replace = [], index_module._sync, os.replace

        def die(original, *arguments):
            calls.append(original)
            if len(calls) == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments)
        index_module._sync = lambda file: die(sync, file)
        os.replace = lambda *paths: die(replace, *paths)
        try:
            index.add(unit(40, 8, 3), unit(40, 8, 4), make_table(40, 13), "model-a")
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    again = Index.load(tmp_path / "index")
    assert again.features["images"].equal(images) and again.features["texts"].equal(texts)
    pd.testing.assert_frame_equal(again.table, table)
    again.add(unit(4, 8, 5), unit(4, 8, 6), make_table(4, 13), "model-a")      # over what the dead one left
    assert again.features["images"].equal(torch.cat([images, unit(4, 8, 5)]))
    assert again.table["pair_id"].tolist() == [f"pair{n}" for n in range(17)]
    assert again.features["texts"].equal(torch.cat([texts, unit(4, 8, 6)]))


# VmHWM, because ru_maxrss begins with the peak of the process that started this one
MEASURE = """
import re, sys, torch
from mcr_lib.index import Index
for path in sys.argv[1:]:
    Index.load(path).topk(torch.randn(20, 256), k=3, among="images")
    print(int(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1]) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of resident memory from /proc")
def test_memory_of_a_search_does_not_grow_with_the_index(tmp_path):
    """The path that ten million rows take (benchmarks/search.py), here with 10 and 80 MB of vectors."""
    for name, count in (("a", 20_000), ("b", 160_000)):
        features = unit(count, 256).half()
        Index(features, features, make_table(count), "m").save(tmp_path / name)
    done = subprocess.run([sys.executable, "-c", MEASURE, tmp_path / "a", tmp_path / "b"], capture_output=True,
                          text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    small, large = map(int, done.stdout.split())
    assert large - small < 35, f"MB resident: {small}, {large}"


# --- approximate search

def test_faiss_finds_what_exact_search_finds_and_is_kept_beside_the_index(tmp_path):
    pytest.importorskip("faiss", reason="the extra is not installed: pip install faiss-cpu")
    gallery = F.normalize(unit(20, 16)[torch.arange(2000) % 20] + 0.2 * unit(2000, 16, 1))
    Index(gallery, gallery, make_table(2000), "m").save(tmp_path / "index")
    index, queries = Index.load(tmp_path / "index"), F.normalize(gallery[:50] + 0.1 * unit(50, 16, 2))
    fast = Approximate(index, "images")
    scores, rows = fast.topk(queries, k=5)
    exact, exact_rows = index.topk(queries, 5, "images")
    assert torch.allclose(scores[:, 0], exact[:, 0], atol=1e-5) and rows[:, 0].equal(exact_rows[:, 0])
    assert fast.recall(5) > 0.9
    fast.faiss.nprobe = 1
    less = fast.recall(200)
    assert less < 0.9, "a recall that cannot fall measures nothing"
    kept = Approximate(Index.load(tmp_path / "index"), "images")
    assert kept.topk(queries, 5)[1].equal(rows) and len([*(tmp_path / "index").glob("faiss-*")]) == 1
    index.add(gallery[:3], gallery[:3], make_table(3), "m")
    assert Approximate(index, "images").faiss.ntotal == 2003 and len([*(tmp_path / "index").glob("faiss-*")]) == 1
    five = Approximate(index, "texts", distinct=True)
    assert five.faiss.ntotal == 5 and set(five.topk(queries, 9)[1].unique().tolist()) == {0, 1, 2, 3, 4}


def test_without_faiss_it_is_one_clear_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ValueError, match="needs faiss: pip install faiss-cpu"):
        Approximate(make_index())


# --- the command

def test_the_index_of_a_run_is_built_in_chunks_and_reused(phantom, smoke_run, tmp_path, monkeypatch):
    run = tmp_path / "run"      # a copy: the run is shared with other tests, and its index is damaged here
    shutil.copytree(smoke_run, run, ignore=shutil.ignore_patterns("index"))
    once = index_build.build_index(run, phantom, split="test", device=CPU)
    once.path.rename(run / "once")
    monkeypatch.setattr(index_build, "CHUNK", 7)
    index = index_build.build_index(run, phantom, split="test", device=CPU)
    assert torch.allclose(index.features["images"], once.features["images"], atol=1e-5) and len(index) == len(once) > 7
    pd.testing.assert_frame_equal(index.table, Index.load(run / "once").table)
    monkeypatch.setattr(index_build, "encode", None)      # the second time nothing is encoded
    assert len(index_build.build_index(run, phantom, split="test", device=CPU)) == len(index)
    about = json.loads((index.path / "index.json").read_text())
    (index.path / "index.json").write_text(json.dumps(about | {"model_hash": "another"}))
    with pytest.raises(RunError, match="built by model another"):
        index_build.build_index(run, phantom, split="test", device=CPU)


def test_the_index_of_data_that_have_grown_encodes_only_what_is_new(phantom, smoke_run, tmp_path, monkeypatch):
    run, data, encode, counts = tmp_path / "run", tmp_path / "data", index_build.encode, []
    shutil.copytree(smoke_run, run, ignore=shutil.ignore_patterns("index"))
    shutil.copytree(phantom, data)
    table = folder.read(phantom)
    monkeypatch.setattr(index_build, "CHUNK", 20)

    def as_it_is(rows):
        about = folder.read_json(data / "dataset.json")
        rows.to_parquet(data / "manifest.parquet")
        folder.write_json(data / "dataset.json", about | {"sha256": folder.content_sha256(data, rows)})

    def counted(model, part, device, rows):
        counts.append(len(rows))
        if len(counts) == dies_at:
            raise KeyboardInterrupt
        return encode(model, part, device, rows=rows)

    monkeypatch.setattr(index_build, "encode", counted)
    dies_at, test = 0, (table["split"] == "test").sum()
    as_it_is(table.drop(table.index[table["split"] == "train"][-30:]).reset_index(drop=True))
    small = index_build.build_index(run, data, device=CPU)
    assert sum(counts) == len(small) == len(table) - 30
    table.loc[table["split"] == "test", "report"] += " No pneumothorax."      # the same images, other reports
    as_it_is(table)
    counts.clear()
    dies_at = 2
    with pytest.raises(KeyboardInterrupt):
        index_build.build_index(run, data, device=CPU)
    done, dies_at = counts[0], 0
    counts.clear()
    grown = index_build.build_index(run, data, device=CPU)      # goes on where it was interrupted
    assert sum(counts) == 30 + test - done
    assert [p.name for p in (run / "index").iterdir() if p.name != ".lock"] == [grown.path.name] == [small.path.name]
    monkeypatch.setattr(index_build, "encode", encode)
    shutil.rmtree(run / "index")
    anew = index_build.build_index(run, data, device=CPU)
    pd.testing.assert_frame_equal(grown.table, anew.table)
    for side in ("images", "texts"):
        torch.testing.assert_close(grown.features[side], anew.features[side], atol=1e-5, rtol=0)


def test_search_by_faiss_prints_its_recall(phantom, smoke_run, monkeypatch, capsys):
    pytest.importorskip("faiss", reason="the extra is not installed: pip install faiss-cpu")
    from mcr_lib.__main__ import main

    command = ["mcr_lib", "search", "--run", str(smoke_run), "--data", str(phantom), "--text", "effusion", "--json"]
    answers = []
    for extra in ([], ["--faiss"]):
        monkeypatch.setattr(sys, "argv", command + extra)
        assert main() == 0
        out, err = capsys.readouterr()
        answers.append([hit["row"] for hit in json.loads(out[out.index("["):])])
    assert answers[0] == answers[1] and "recall@5 against exact search 1.000" in err
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert main() == 2 and "pip install faiss-cpu" in capsys.readouterr().err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: compares it with the CPU")
def test_cuda_finds_the_same(tmp_path):
    index = make_index(97)
    index.save(tmp_path / "index")
    moved = make_index(97, images=index.features["images"].cuda(), texts=index.features["texts"].cuda())
    for one in (moved, Index.load(tmp_path / "index", device="cuda")):
        for distinct in (False, True):
            expected = index.topk(unit(3, 8), 5, "texts", distinct)[1]
            assert one.topk(unit(3, 8).cuda(), 5, "texts", distinct)[1].equal(expected)


def test_one_query_is_not_made_to_wait_for_bfloat16(monkeypatch):
    monkeypatch.setattr(ranking, "bf16_is_fast", lambda device: True)
    assert ranking.coarse_dtypes(torch.ones(1, 4)) == (torch.float32,)
    assert ranking.coarse_dtypes(torch.ones(ranking.MANY, 4)) == (torch.bfloat16, torch.float32)
    monkeypatch.setattr(ranking, "bf16_is_fast", lambda device: False)
    assert ranking.coarse_dtypes(torch.ones(1000, 4)) == (torch.float32,)
