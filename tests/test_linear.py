"""The encoders that are fitted instead of trained: against slow loops, scikit-learn, and end to end."""

import numpy as np
import pytest
import torch
from sklearn.cross_decomposition import CCA
from sklearn.feature_extraction.text import TfidfVectorizer
from torch.nn.functional import normalize

import mcr_lib
from data_prep import closed_form
from data_prep.closed_form import learn_windows, ridge_cca, weigh_words
from kit.grounding import patch_features, word_features
from mcr_lib.config import ConfigError, resolve, resolve_from
from mcr_lib.data import PairData
from mcr_lib.evaluate import evaluate_run
from mcr_lib.export import export_run, sides
from mcr_lib.linear import FLOOR, STRIDE, WINDOW, PatchHistograms, learn_images, move
from mcr_lib.run import load_run, train_run

CPU = torch.device("cpu")
SMALL = {"embed_dim": 32, "vocab_size": 300}  # else as the profile


@pytest.fixture(scope="module", autouse=True)
def few_windows():
    """A tenth of the windows: seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(closed_form, "MOST_WINDOWS", 20_000)
        yield


@pytest.fixture(scope="module")
def run(phantom, tmp_path_factory):
    where = tmp_path_factory.mktemp("runs") / "small"
    train_run(phantom, where, resolve("small", SMALL), device=CPU)
    return where


@pytest.fixture(scope="module")
def loaded(run, phantom):
    """Model, and the test pairs as one batch."""
    model, tokenizer = load_run(run)
    pairs = PairData(phantom, "test", tokenizer, model.config)
    return model, pairs.batch(np.arange(len(pairs)), CPU)


def test_histograms_are_what_a_slow_loop_counts():
    config = resolve("small", {**SMALL, "img_size": 24, "patch_size": 12}).model
    encoder, generator = PatchHistograms(config), torch.Generator().manual_seed(0)
    for own in (encoder.whiten, encoder.middle, encoder.windows):
        own.copy_(torch.randn(own.shape, generator=generator) / 8)
    image = torch.randn(1, 1, 24, 24, generator=generator)
    places = range(0, 24 - WINDOW + 1, STRIDE)
    near = torch.zeros(len(places), len(places), 32)
    for i, row in enumerate(places):
        for j, column in enumerate(places):
            window = image[0, 0, row : row + WINDOW, column : column + WINDOW].flatten()
            window = (window - window.mean()) / (window.var(correction=0) + FLOOR).sqrt()
            distance = (window @ encoder.whiten.T - encoder.middle - encoder.windows).norm(dim=1)
            near[i, j] = (distance.mean() - distance).clamp(min=0)
    # 9 × 9 windows on 2 × 2 patches: the middle ones count for both sides
    means = [
        near[a, b].mean((0, 1)) for a in (slice(5), slice(4, 9)) for b in (slice(5), slice(4, 9))
    ]
    expected = torch.stack(means).sqrt()
    assert torch.allclose(encoder.histograms(image)[0], expected, atol=1e-4)


def test_a_picture_is_moved_as_asked():
    """Zoom 2 shows the whole in the middle half; a shift by half of the half-side moves a quarter."""
    image = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    same = move(image, torch.zeros(1, 5))
    assert torch.allclose(same, image, atol=1e-5)
    right = move(image, torch.tensor([[0, 0, 0.5, 0, 0]]))
    assert torch.allclose(right[..., :12], image[..., 4:], atol=1e-5)
    below = move(image, torch.tensor([[0, 0, 0, 0.5, 0]]))
    assert torch.allclose(below[..., :12, :], image[..., 4:, :], atol=1e-5)
    half = torch.tensor([[np.log(2), np.log(2), 0, 0, 0]], dtype=torch.float32)
    pooled = torch.nn.functional.avg_pool2d(image, 2)
    assert torch.allclose(move(image, half)[..., 4:12, 4:12], pooled, atol=1e-5)


def test_settled_pictures_lie_alike_and_the_learned_moves_are_no_memory():
    """Copies of one scene, each moved by another unknown amount, and copies not learned from."""
    config = resolve("small", {**SMALL, "img_size": 32, "patch_size": 16}).model
    generator = torch.Generator().manual_seed(0)
    scene = torch.rand(1, 1, 5, 5, generator=generator)
    scene = torch.nn.functional.interpolate(scene, (32, 32), mode="bicubic")
    by = 0.1 * torch.randn(300, 5, generator=generator)
    images = move(scene.expand(300, -1, -1, -1), by)
    encoder = PatchHistograms(config)
    learn_images(encoder, images[:200], np.random.default_rng(0))
    apart = [x.var(0).mean() for x in (images[200:], encoder.settle(images[200:]))]
    assert apart[1] < 0.3 * apart[0]


def test_windows_are_whitened_and_their_means_are_of_their_kind():
    """Two kinds of stripes: the learned means are those stripes, and brightness does not matter."""
    random = np.random.default_rng(0)
    images = np.zeros((40, 24, 24), np.float32)
    images[::2], images[1::2] = np.sin(np.arange(24))[:, None], np.sin(np.arange(24))[None]
    images += 0.3 * random.standard_normal(images.shape)
    whiten, middle, means = learn_windows(images * 5 + 2, 8, 16, FLOOR, random)
    again = learn_windows(images * 5 + 2, 8, 16, FLOOR, np.random.default_rng(1))
    windows = np.lib.stride_tricks.sliding_window_view(images * 5 + 2, (8, 8), axis=(1, 2))
    x = windows.reshape(-1, 64)
    x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + FLOOR)
    covariance = np.cov(((x @ whiten) - middle).T)
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 0.05
    assert np.diag(covariance).max() < 1.05
    assert means.shape == (16, 64) and np.allclose(again[0], whiten, atol=0.1)


def test_ridge_cca_without_a_ridge_is_scikit_learns():
    random = np.random.default_rng(0)
    shared = random.standard_normal((500, 2))
    x, y = (
        shared @ random.standard_normal((2, 4)) + random.standard_normal((500, 4)) for _ in range(2)
    )
    x, y = x - x.mean(0), y - y.mean(0)
    ours = [side @ a for side, a in zip((x, y), ridge_cca(x, y, (1e-9, 1e-9), 0.0), strict=True)]
    theirs = CCA(4, scale=False, max_iter=5000, tol=1e-10).fit(x, y).transform(x, y)

    def correlations(pair):
        return [np.corrcoef(pair[0][:, i], pair[1][:, i])[0, 1] for i in range(4)]

    np.testing.assert_allclose(correlations(ours), correlations(theirs), atol=1e-3)


def test_reports_become_the_tf_idf_of_scikit_learn():
    reports = [
        "clear lungs clear heart",
        "clear lungs",
        "large heart",
        "large effusion large heart",
    ]
    numbers = {word: i for i, word in enumerate(sorted(set(" ".join(reports).split())))}
    weighted, known, _ = weigh_words([np.array([numbers[w] for w in r.split()]) for r in reports])
    theirs = TfidfVectorizer(min_df=2, sublinear_tf=True).fit(reports)
    assert [numbers[word] for word in theirs.get_feature_names_out()] == known.tolist()
    np.testing.assert_allclose(weighted.toarray(), theirs.transform(reports).toarray())


def test_a_report_is_its_weighted_words_mapped(loaded):
    """The text side of the model, word by word, is TF-IDF times a matrix."""
    model, batch = loaded
    encoder = model.report_encoder
    number, stands = encoder.words(batch.input_ids, batch.attention_mask)
    expected = []
    for words, there in zip(number, stands, strict=True):
        times = torch.bincount(words[there], minlength=len(encoder.rarity)).double()
        weight = torch.where(times > 0, 1 + times.clamp(min=1).log(), 0) * encoder.rarity
        expected.append(normalize(weight, dim=0) @ encoder.map.double() + encoder.bias)
    text = model.encode_text(batch.input_ids, batch.attention_mask)
    assert torch.allclose(text.double(), normalize(torch.stack(expected)), atol=1e-5)


def test_padding_changes_nothing_and_patches_and_words_add_up(loaded):
    model, batch = loaded
    ids, present = batch.input_ids, batch.attention_mask
    for where in ((0, 5), (5, 0)):
        wider = [torch.nn.functional.pad(x, where) for x in (ids, present)]
        assert torch.allclose(model.encode_text(*wider), model.encode_text(ids, present), atol=1e-6)
    for local, whole, there in (
        (patch_features(model, batch.images), model.encode_image(batch.images), None),
        (word_features(model, ids, present), model.encode_text(ids, present), present),
    ):
        there = torch.ones(local.shape[:2]) if there is None else there
        mean = (local * there[:, :, None]).sum(1) / there.sum(1, keepdim=True)
        assert torch.allclose(normalize(mean), whole, atol=1e-5)


def test_it_finds_far_more_than_chance_without_a_step(run, phantom, tmp_path):
    found = evaluate_run(run, phantom, device=CPU)
    assert found["interval"]["rsum"][0] > 1.5 * found["chance"]["rsum"]
    assert found["training"]["steps"] == 0
    train_run(phantom, tmp_path / "again", resolve("small", SMALL), device=CPU)
    one, two = (load_run(where)[0].state_dict() for where in (run, tmp_path / "again"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_from_an_older_run_it_is_fitted_anew_and_resumed_it_stays(run, phantom, tmp_path):
    config = resolve_from(run, "small", SMALL)
    train_run(phantom, tmp_path / "next", config, device=CPU)
    one, two = (load_run(where)[0].state_dict() for where in (run, tmp_path / "next"))
    assert all(torch.equal(one[name], two[name]) for name in one)  # the same data: the same fit
    before = (run / "manifest.json").read_bytes()
    train_run(phantom, run, resolve("small", SMALL), device=CPU, resume=True)
    assert (run / "manifest.json").read_bytes() == before


def test_it_goes_where_any_model_goes(run, phantom, loaded, tmp_path):
    export_run(run, tmp_path / "out")
    pictures = sorted((phantom / "images").iterdir())[:3]
    sentences = ["large left pleural effusion", "no acute disease"]
    ours, exported = mcr_lib.Encoder(run, "cpu"), mcr_lib.Encoder(tmp_path / "out", "cpu")
    for ask, things in (("encode_images", pictures), ("encode_texts", sentences)):
        np.testing.assert_allclose(
            getattr(ours, ask)(things), getattr(exported, ask)(things), atol=1e-6
        )
    for _, side, inputs, axes in sides(loaded[0]):
        traced = torch.export.export(side, (), inputs, dynamic_shapes=axes).module()
        assert torch.allclose(traced(**inputs), side(**inputs), atol=1e-6)


def test_it_goes_to_onnx_whole(run, loaded, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install --editable '.[onnx]'")
    export_run(run, tmp_path / "out", onnx=True)
    model, batch = loaded
    for name, _, inputs, _ in sides(model):
        given = {key: getattr(batch, key) for key in inputs}
        session = onnxruntime.InferenceSession(tmp_path / "out" / f"{name}.onnx")
        found = session.run(None, {key: value.numpy() for key, value in given.items()})[0]
        encode = model.encode_image if name == "image" else model.encode_text
        np.testing.assert_allclose(found, encode(**given).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("wrong", ["framework=mcr", "pooling=max", "text_weights=x"])
def test_what_it_cannot_be_is_refused(wrong):
    key, value = wrong.split("=")
    with pytest.raises(ConfigError, match=f"encoders=linear needs {key}="):
        resolve("small", {key: value})


def test_few_pairs_and_few_words_are_enough(phantom, tmp_path):
    """Fewer pairs than axes: what is left of the common space stays empty."""
    train_run(phantom, tmp_path / "run", resolve("small", {**SMALL, "common_dim": 512}), device=CPU)
    model, _ = load_run(tmp_path / "run")
    assert model.image_encoder.map.shape[2] == 512 and not model.image_encoder.map[:, :, 300:].any()


def test_known_words_are_mapped_and_no_others(loaded):
    encoder = loaded[0].report_encoder
    known = encoder.rarity > 0
    assert encoder.map[known].abs().sum(1).gt(0).all() and not encoder.map[~known].any()
