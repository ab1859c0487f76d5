"""A segmenter of a plain CLIP: chunks, bands, tiles and several images are one pass; methods, words and bad input."""

import dataclasses

import numpy as np
import pytest

from ahs_seg_jax import Background, TrainingFree
from ahs_seg_jax.checkpoints import pretrained
from ahs_seg_jax.checkpoints.manifest import Pretrained
from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.inference import CAT_SEG, compiled, cosine_labels, encoding, free_plan, heads, in_passes
from ahs_seg_jax.inference.native_windows import NativeWindows
from ahs_seg_jax.inference.tiles import ArrayRaster, assembled
from ahs_seg_jax.models.ahs_seg import AHSSeg
from ahs_seg_jax.models.ops import resize
from ahs_seg_jax.segmenter import Segmenter
from ahs_seg_jax.segmenter import segmenter as segmenter_module
from ahs_seg_jax.vocabulary import Vocabulary, imagenet_templates
from tests.support.images import photo
from tests.support.small import inference_model, random_params
from tests.support.training_free import SMALL, small_clip, small_goldens

NAMES = ("wall, sky, floor", "face, woman", "orange suit", "flag", "rocket, white rocket")
PLAIN = TrainingFree(refine="none")
LABELS = 0.999  # share of the pixels; ties in the sixth digit exist


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter(SMALL, small_clip(), method=PLAIN)


@pytest.fixture
def plain_file(monkeypatch):
    """A checkpoint that holds CLIP only."""
    found = Pretrained(SMALL, small_clip(), {})
    monkeypatch.setattr(pretrained, "load_pretrained", lambda path, **options: found)


def same(result, expected) -> None:
    """Labels but for ties, and confidence."""
    assert (result.labels == expected.labels).mean() > 0.999
    np.testing.assert_allclose(result.confidence, expected.confidence, atol=2e-5)


@pytest.mark.usefixtures("plain_file")
def test_a_plain_clip_segments_by_naclip():
    found = Segmenter.from_pretrained("clip.pt")
    assert (found.method, found.templates) == ("naclip", imagenet_templates())
    assert (found.protocol.name, found.protocol.short_side, found.protocol.window, found.protocol.stride) == (
        *("slide", 72, 48, 24),
    )
    result = found(small_goldens().stored["image"], NAMES)
    assert result.labels.shape == (53, 71)
    assert found.plan((53, 71), 9).refinement == "pamr"
    assert "training-free method naclip, refined by pamr" in str(found.plan((53, 71), 9))


@pytest.mark.parametrize("name", ["naclip", "naclip_whole", "sclip", "pearl", "naclip_wide"])
def test_a_call_is_the_published_program(name):
    goldens = small_goldens()
    case = goldens.case(name)
    found = Segmenter(SMALL, small_clip(), method=case.method)
    s = case.settings
    # The goldens' class 0 is the background; the area exempts it.
    background = Background(goldens.names[0].split(", "), s["prob"], s["area"] or 0.0)
    result = found(goldens.stored["image"], goldens.names[1:], unknown=background)
    assert (result.labels + 1 == case.numbers["labels"]).mean() >= LABELS


def test_words_in_chunks_and_rows_in_bands(monkeypatch):
    whole = Segmenter(SMALL, small_clip(), method=TrainingFree(pamr_steps=3, pamr_dilations=(1, 4)))
    image, names = photo(61, 43), (*NAMES, "dog", "cat", "old oak tree", "tin roof", "sea")
    expected = whole(image, names, probabilities=True)
    monkeypatch.setattr(cosine_labels, "QUERIES_AT_ONCE", 3)
    monkeypatch.setattr(free_plan, "QUERIES", 4)
    monkeypatch.setattr(cosine_labels, "BAND_PIXELS", 7 * 43)  # fewer rows than the refinement reaches
    found = whole(image, names, probabilities=True)
    same(found, expected)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=2e-5)
    np.testing.assert_allclose(expected.probabilities.max(0), expected.confidence, rtol=1e-5)


def test_several_images_are_the_images_one_by_one(segmenter):
    images = [photo(*size) for size in ((61, 43), (40, 99), (31, 31), (61, 43), (20, 120))]
    together = segmenter(images, NAMES)
    for image, result in zip(images, together, strict=True):
        same(result, Segmenter(SMALL, small_clip(), method=PLAIN)(image, NAMES))


def test_other_words_on_the_same_image_encode_no_view(segmenter):
    image = photo(67, 41)
    segmenter(image, NAMES)
    assert segmenter.remembers(image)
    before = compiled.traces.copy()
    segmenter(image, NAMES[::-1])
    assert not {name: count for name, count in (compiled.traces - before).items() if "image" in name}


def test_images_of_a_batch_share_one_program_of_the_tower(monkeypatch):
    monkeypatch.setattr(free_plan, "VIEWS", {})  # as on an accelerator
    found = Segmenter(SMALL.replace(class_chunk=3), small_clip(), method=PLAIN)  # another model, nothing compiled
    before = compiled.traces["encode_image"]
    for size in ((61, 43), (40, 99), (31, 31), (43, 61)):
        found(photo(*size), NAMES)
    assert compiled.traces["encode_image"] == before + 1


def test_tiles_of_a_large_raster_are_the_image(segmenter):
    image, windows, engine = photo(101, 83), NativeWindows(stride=24), segmenter.engine
    raster, words = ArrayRaster(image), segmenter.as_vocabulary(NAMES)
    whole = segmenter(image, NAMES, windows=windows, probabilities=True)
    text = engine.encode_text(words)
    labels, confidence, _ = assembled(engine.tiles(raster, text, windows, classes=words.query_class), raster.size)
    np.testing.assert_array_equal(labels, whole.labels)
    np.testing.assert_allclose(whole.probabilities.max(0), confidence, rtol=1e-5)
    # By the definition: cosines resized to the windows' pixels, averaged by their weights, then the softmax.
    grid, total, up = windows.grid(raster.size, 48), np.zeros((9, *raster.size)), resize.bilinear_matrix(6, 48)
    places = [(i, j) for i in range(len(grid.rows.starts)) for j in range(len(grid.columns.starts))]
    cuts = [np.s_[y : y + 48, x : x + 48] for y in grid.rows.starts for x in grid.columns.starts]
    views = np.stack([image[cut] for cut in cuts]).astype(np.float32)
    dense = in_passes.encode_views(engine.model, engine.params, views, 4)["dense"]
    cosines = np.asarray(heads._compare(engine.model, engine.params, dense, text))
    for (i, j), cut, of_view in zip(places, cuts, cosines, strict=True):
        weights = np.outer(grid.rows.weights(i), grid.columns.weights(j))
        total[:, *cut] += weights * np.einsum("Hh,qhw,Ww->qHW", up, of_view, up)
    shares = np.exp(40 * total)
    np.testing.assert_allclose(confidence, (shares / shares.sum(0)).max(0), atol=1e-4)


def test_a_bound_of_memory_changes_nothing_but_the_parts(segmenter):
    image = photo(61, 83)
    plan = segmenter.plan((61, 83), 9)
    bounded = Segmenter(SMALL, small_clip(), method=PLAIN, memory_gb=plan.gigabytes - 0.0003)
    assert bounded.plan((61, 83), 9).at_once < plan.at_once
    same(bounded(image, NAMES), segmenter(image, NAMES))
    with pytest.raises(ValueError, match=r"more than memory_gb = 0\.5:\ntraining-free method naclip, not refined"):
        Segmenter(SMALL, small_clip(), method=PLAIN, memory_gb=0.5)(image, NAMES)


def test_large_images_are_refined_only_if_it_is_asked_for():
    by_itself, asked = (Segmenter(SMALL, small_clip(), method=TrainingFree(refine=r)) for r in ("auto", "pamr"))
    assert by_itself.plan((2000, 2000), 9).refinement == "pamr"
    assert by_itself.plan((2000, 2001), 9).refinement == "none"
    assert asked.plan((2000, 2001), 9).refinement == "pamr"
    assert by_itself.plan((50, 50), 9, windows=NativeWindows()).refinement == "none"
    with pytest.raises(ValueError, match="refine is 'pamr', which needs the whole image; with native windows use"):
        asked(photo(50, 50), NAMES, windows=NativeWindows())


def test_synonyms_are_queries_of_their_own(segmenter):
    image = photo(61, 43)
    parts = segmenter(image, ["wall", "sky", "floor", "flag"], probabilities=True)
    joined = segmenter(image, ["wall, sky, floor", "flag"], probabilities=True)
    np.testing.assert_allclose(joined.probabilities[0], parts.probabilities[:3].max(0), rtol=1e-5)
    np.testing.assert_allclose(joined.probabilities[1], parts.probabilities[3], rtol=1e-5)
    assert segmenter.logits(image, ["wall, sky, floor", "flag"]).shape[0] == 4


def test_background_words_a_probability_and_an_area(segmenter):
    image, names = photo(61, 43), ["flag", "face", "orange suit"]
    words = segmenter(image, names, unknown=["wall", "sky"])
    as_one = segmenter(image, names, unknown=["wall, sky"])
    np.testing.assert_array_equal(words.labels, as_one.labels)
    every = segmenter(image, [*names, "wall", "sky"], probabilities=True)
    np.testing.assert_array_equal(words.labels, np.where(every.labels > 2, -1, every.labels))
    unsure = np.quantile(every.confidence, 0.3)
    both = segmenter(image, names, unknown=Background(("wall", "sky"), probability=float(unsure)))
    np.testing.assert_array_equal(both.labels, np.where(every.confidence < unsure, -1, words.labels))
    counts = np.bincount(words.labels.ravel() + 1, minlength=4)[1:]
    area = float(np.sort(counts)[1] / counts.sum()) + 1e-9  # two of the three names are too small
    largest = int(counts.argmax())
    found = segmenter(image, names, unknown=Background(("wall", "sky"), area=area))
    kept = every.probabilities[[largest, 3, 4]].argmax(0)
    np.testing.assert_array_equal(found.labels, np.where(kept == 0, largest, -1))
    np.testing.assert_allclose(found.confidence, every.probabilities[[largest, 3, 4]].max(0), rtol=1e-5)


def test_the_clip_inside_a_trained_model_rotations_merged():
    config = inference_model()
    params = random_params(config)
    assert Segmenter(config, params).method == heads.AGGREGATOR
    inside = Segmenter(config, params, method="clearclip")
    assert inside.method == "clearclip"
    assert set(inside.engine.params) == {"clip"}
    plain, folded = encoding.merged(AHSSeg(config), params)
    same(inside(photo(31, 47), NAMES), Segmenter(plain.config, folded, method="clearclip")(photo(31, 47), NAMES))


def test_the_rule_best_and_a_background_by_a_trained_model():
    config = inference_model(aggregator__pad_len=0)
    trained = Segmenter(config, random_params(config), protocol="whole")
    image, templates = photo(31, 47), trained.templates
    apart = trained(image, ["cat", "kitten", "dog"], probabilities=True)
    best = trained(image, Vocabulary(("cat, kitten", "dog"), templates, "best"), probabilities=True)
    np.testing.assert_array_equal(best.labels, np.array([0, 0, 1])[apart.labels])
    np.testing.assert_allclose(best.probabilities[0], apart.probabilities[:2].max(0), rtol=1e-6)
    rare = np.bincount(apart.labels.ravel(), minlength=3)
    share = float(np.sort(rare)[-2] / rare.sum()) + 1e-9
    found = trained(image, ["cat", "kitten", "dog"], unknown=Background(area=share))
    assert set(np.unique(found.labels)) == {rare.argmax()}


@pytest.mark.usefixtures("plain_file")
def test_methods_that_cannot_be_had():
    with pytest.raises(
        CheckpointError, match=r"'aggregator' needs a trained aggregator as well.*training-free method: "
    ):
        Segmenter.from_pretrained("clip.pt", method="aggregator")
    with pytest.raises(
        ValueError, match="unknown method 'dino'; choose one of aggregator, maskclip, maskclip_residual"
    ):
        Segmenter.from_pretrained("clip.pt", method="dino")
    with pytest.raises(ValueError, match="published constants for towers of 12 blocks, and this one has 2"):
        Segmenter.from_pretrained("clip.pt", method="sc_clip")
    with pytest.raises(ValueError, match=r"the window is 7 pixels, less than a patch of this tower \(8\); give"):
        Segmenter.from_pretrained("clip.pt", method=TrainingFree(window=7))
    with pytest.raises(ValueError, match="keep is 5; it cuts the classes that a trained aggregator sees"):
        Segmenter.from_pretrained("clip.pt", keep=5)
    other = SMALL.replace(image=dataclasses.replace(SMALL.image, tower="siglip"))
    with pytest.raises(ValueError, match="naclip is defined for CLIP's image tower, and this one is 'siglip'"):
        Segmenter(other, small_clip(), method="naclip")


def test_calls_that_cannot_be_answered(segmenter):
    image = photo(31, 47)
    with pytest.raises(ValueError, match="class_pooling is 2; it is for the class layers of a trained aggregator"):
        segmenter(image, NAMES, class_pooling=2)
    for protocol in ("cat_seg", CAT_SEG):
        with pytest.raises(
            ValueError, match="'cat_seg' squashes the picture and averages sigmoids, which the training"
        ):
            segmenter(image, NAMES, protocol=protocol)
    with pytest.raises(
        ValueError, match="unknown protocol 'tiled' of the training-free method naclip; choose one of sl"
    ):
        segmenter(image, NAMES, protocol="tiled")
    with pytest.raises(ValueError, match="the background word 'Sky' repeats the name 'wall, sky, floor'"):
        segmenter(image, NAMES, unknown=["grass", "Sky"])
    with pytest.raises(ValueError, match=r"the background's area is 1\.5; it must lie within 0\.\.1"):
        Background(area=1.5)
    with pytest.raises(ValueError, match="a background's area needs the whole image"):
        segmenter(image, NAMES, unknown=Background(area=0.5), windows=NativeWindows())
    aggregator = Segmenter(inference_model(), random_params(inference_model()))
    with pytest.raises(ValueError, match="the protocol 'slide' is for training-free methods; a trained aggregator"):
        aggregator(image, NAMES, protocol=segmenter.protocol)


def test_one_word_alone_is_pointed_out(segmenter, monkeypatch):
    said = []
    monkeypatch.setattr(segmenter_module.logger, "warning", lambda text, *args: said.append(text % args))
    result = segmenter(photo(31, 47), ["flag"])
    segmenter(photo(47, 31), ["flag"])
    assert len(said) == 1, "once, not of every image"
    assert said[0].startswith("flag is the only word, and naclip shares all probability among the words")
    np.testing.assert_allclose(result.confidence, 1, rtol=1e-6)


@pytest.mark.parametrize("size", [(5, 400), (400, 3), (1, 1)])
def test_pictures_of_any_proportion(segmenter, size):
    for protocol in ("slide", "whole"):
        assert segmenter(photo(*size), NAMES, protocol=protocol).labels.shape == size
