"""The segmenter: shapes, cached text, buckets, other orders of names, bad input. A small model with random weights."""

import concurrent.futures

import numpy as np
import pytest
from PIL import Image

from ahs_seg_jax.inference import CAT_SEG, WHOLE, compiled, encoding, labelling
from ahs_seg_jax.inference.at_once import view_logits
from ahs_seg_jax.inference.keeping import AUTO_MARGIN, Margin
from ahs_seg_jax.inference.native_windows import NativeWindows
from ahs_seg_jax.inference.tiles import ArrayRaster
from ahs_seg_jax.segmenter import Segmentation, Segmenter
from ahs_seg_jax.vocabulary import Vocabulary
from tests.support.images import photo, resized
from tests.support.small import inference_model, random_params

CONFIG = inference_model(aggregator__pad_len=0)  # like the packaged model, it keeps all classes
NAMES = ("sky", "road", "old oak tree", "car", "cat, kitten")


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter(CONFIG, random_params(CONFIG))


def test_rotations_are_merged_at_load(segmenter):
    assert CONFIG.adaptation == "ha_hem"
    assert segmenter.config.adaptation == "none"
    assert "adaptation" not in segmenter.engine.params["clip"]


def test_logits_follow_the_names(segmenter):
    logits = segmenter.logits(photo(41, 67), NAMES)
    assert logits.dtype == np.float32
    assert logits.shape == (5, 16, 16)
    assert logits.std() > 0.1
    order = [3, 1, 4, 0, 2]
    permuted = segmenter.logits(photo(41, 67), [NAMES[index] for index in order])
    np.testing.assert_allclose(permuted, logits[order], atol=1e-4 * np.abs(logits).max())


def at_once(segmenter, image, names, protocol=WHOLE) -> np.ndarray:
    """Probabilities `[t, H, W]` as an evaluation computes them: all classes in one program."""
    model, params = segmenter.engine.model, segmenter.engine.params
    text, mask = encoding.padded_text(encoding.encode_vocabulary(model, params, Vocabulary(names)), len(names))
    logits = view_logits(model, params, protocol.views(image, model.config.image.crop)[None], text, mask)
    return np.asarray(labelling.probabilities(logits[0], image.shape[:2], protocol))


@pytest.mark.parametrize("protocol", [WHOLE, CAT_SEG], ids=lambda protocol: protocol.name)
def test_a_call_is_what_an_evaluation_computes(segmenter, protocol):
    result = segmenter(photo(41, 67), NAMES, protocol=protocol.name, probabilities=True)
    assert (result.labels.dtype, result.labels.shape) == (np.int32, (41, 67))
    probabilities = at_once(segmenter, photo(41, 67), NAMES, protocol)
    np.testing.assert_allclose(result.probabilities, probabilities, atol=1e-5)
    chosen = np.take_along_axis(probabilities, result.labels[None], axis=0)[0]
    np.testing.assert_allclose(chosen, probabilities.max(axis=0), atol=1e-5)  # ties up to rounding


def test_logits_are_those_of_a_call_by_the_same_settings(segmenter):
    for keep in (3, None):
        bounded = Segmenter(CONFIG, random_params(CONFIG), keep=keep, memory_gb=1.35, protocol="whole")
        logits = bounded.logits(photo(41, 67), NAMES)
        assert ((logits > -99).all(axis=(1, 2)).sum()) == (keep or len(NAMES))
        expected = labelling.probabilities(logits[None], (41, 67), WHOLE)
        call = bounded(photo(41, 67), NAMES, probabilities=True)
        np.testing.assert_allclose(call.probabilities, expected, atol=1e-6)


def test_windows_by_default(segmenter):
    by_default, windows = segmenter(photo(37, 53), NAMES), segmenter(photo(37, 53), NAMES, protocol=CAT_SEG)
    np.testing.assert_array_equal(by_default.labels, windows.labels)


def test_text_is_encoded_once_for_each_vocabulary(segmenter, monkeypatch):
    counted = []
    encode = encoding.encode_vocabulary
    monkeypatch.setattr(encoding, "encode_vocabulary", lambda *args: counted.append(args[2]) or encode(*args))
    image = photo(31, 29)
    vocabularies = [("river", "sea"), ("sea", "river"), Vocabulary(("river", "sea"), templates=("a {}",))]
    first = [segmenter.logits(image, names) for names in vocabularies]
    again = [segmenter.logits(image, names) for names in vocabularies]
    assert len(counted) == 3
    for before, after in zip(first, again, strict=True):
        np.testing.assert_array_equal(before, after)
    segmenter.logits(image, ["river", "sea"])
    assert len(counted) == 3
    # Other templates, other embeddings: far apart on the unit sphere, and the logits follow. Nothing else differs.
    embedded = [segmenter.embed_text(names) for names in (vocabularies[0], vocabularies[2])]
    assert (np.linalg.norm(embedded[0] - embedded[1], axis=-1) > 0.1).all()
    assert not np.array_equal(first[0], first[2])
    np.testing.assert_allclose(first[0], first[1][::-1], atol=5e-6)  # the same names, summed in another order
    assert np.abs(first[0] - first[2]).max() > 20 * np.abs(first[0] - first[1][::-1]).max()


def test_old_vocabularies_are_forgotten(segmenter, monkeypatch):
    monkeypatch.setattr("ahs_seg_jax.inference.engine.CACHED_VOCABULARIES", 2)
    for name in ("one", "two", "three"):
        segmenter.logits(photo(31, 29), [name])
    assert [vocabulary.names for vocabulary in segmenter.engine._texts] == [("two",), ("three",)]


@pytest.mark.parametrize(
    ("image", "names", "error", "text"),
    [
        (photo(5, 7).astype(np.float32), NAMES, ValueError, "which are taken as they are within 0..1 only"),
        (photo(5, 7)[..., :2], NAMES, ValueError, r"image has shape \[5, 7, 2\]"),
        (photo(5, 7), [], ValueError, "there are no class names"),
        (photo(5, 7), ["sky", "Sky"], ValueError, "'Sky', repeats name 1"),
        (photo(5, 7), "sky", TypeError, r"names is the text 'sky'; pass a list of class names, such as \['sky'\]"),
        (photo(5, 7), ["very " * 40 + "long name"], ValueError, "the text context holds 32 tokens"),
    ],
)
def test_bad_input_is_refused(segmenter, image, names, error, text):
    with pytest.raises(error, match=text):
        segmenter(image, names)


def test_unknown_protocol_is_refused(segmenter):
    with pytest.raises(ValueError, match="unknown protocol 'window'; choose one of whole, cat_seg"):
        segmenter(photo(5, 7), NAMES, protocol="window")


def test_class_pooling_must_divide_the_grid(segmenter):
    with pytest.raises(ValueError, match="class_pooling is 3, which does not divide"):
        segmenter.logits(photo(5, 7), NAMES, class_pooling=3)
    for options in ({}, {"windows": NativeWindows()}):
        with pytest.raises(ValueError, match="class_pooling is 0, which does not divide"):
            segmenter(photo(5, 7), NAMES, class_pooling=0, **options)


# ------------------------------------------------------------------------------------------------ calling it


@pytest.fixture(scope="module")
def called(segmenter) -> Segmentation:
    return segmenter(photo(41, 67), NAMES, protocol="whole", probabilities=True)


def test_what_a_call_returns(called):
    assert called.names == NAMES
    assert (called.labels.dtype, called.confidence.dtype) == (np.int32, np.float32)
    assert called.probabilities.shape == (5, 41, 67)
    np.testing.assert_allclose(called.confidence, called.probabilities.max(axis=0), atol=1e-6)


def test_permuted_names_give_permuted_results(segmenter, called):
    order = [3, 1, 4, 0, 2]
    permuted = segmenter(photo(41, 67), [NAMES[index] for index in order], protocol="whole", probabilities=True)
    np.testing.assert_allclose(permuted.probabilities, called.probabilities[order], atol=1e-5)
    clear = _margin(called.probabilities) > 1e-5
    np.testing.assert_array_equal(np.array(order)[permuted.labels][clear], called.labels[clear])


def _margin(probabilities: np.ndarray) -> np.ndarray:
    ordered = np.sort(probabilities, axis=0)
    return ordered[-1] - ordered[-2]


def test_results_depend_on_neither_batch_nor_bucket_nor_memory(segmenter, called):
    images = [photo(41, 67), photo(37, 31, 1), photo(41, 67), photo(301, 11, 2)]
    many = segmenter(images, NAMES, protocol="whole", probabilities=True)
    assert [result.labels.shape for result in many] == [(41, 67), (37, 31), (41, 67), (301, 11)]
    np.testing.assert_allclose(many[0].probabilities, called.probabilities, atol=1e-5)
    np.testing.assert_array_equal(many[2].labels, many[0].labels)
    small = Segmenter(CONFIG, random_params(CONFIG), memory_gb=1.2, keep=None)
    for image, result in zip(images, many, strict=True):
        again = small(image, NAMES, protocol="whole", probabilities=True)
        np.testing.assert_allclose(again.probabilities, result.probabilities, atol=1e-5)


def test_a_constant_image_is_constant_through_windows(segmenter):
    constant = np.full((43, 71, 3), (90, 130, 50), np.uint8)
    result = segmenter(constant, NAMES, protocol="cat_seg", probabilities=True)
    whole = segmenter(constant[:1, :1], NAMES, protocol="cat_seg", probabilities=True)
    assert np.isfinite(result.probabilities).all()
    # Every window sees the same pixels; only their blending differs from place to place.
    np.testing.assert_allclose(result.probabilities.mean((1, 2)), whole.probabilities[:, 0, 0], atol=0.2)


def test_windows_at_the_image_s_own_resolution(segmenter):
    image = photo(70, 45)
    windows = NativeWindows(overlap=0)  # of 32 pixels: (0, 32, 38) x (0, 13)
    result = segmenter(image, NAMES, windows=windows, unknown=["fog"], probabilities=True)
    assert (result.labels.shape, result.probabilities.shape) == ((70, 45), (5, 70, 45))
    assert set(np.unique(result.labels)) <= {-1, 0, 1, 2, 3, 4}
    corner = resized(segmenter.logits(image[:32, :32], [*NAMES, "fog"]), (32, 32))  # only this window lies there
    np.testing.assert_allclose(result.probabilities[:, :32, :13], corner[:5, :, :13], atol=1e-5)
    [again] = list(segmenter.tiles(ArrayRaster(image), NAMES, windows, unknown=["fog"]))
    np.testing.assert_array_equal(again.labels, result.labels)
    chunked = Segmenter(CONFIG, random_params(CONFIG), keep=None, memory_gb=1.35)
    other = chunked(image, NAMES, windows=windows, unknown=["fog"], probabilities=True)
    np.testing.assert_allclose(other.probabilities, result.probabilities, atol=1e-5)
    with pytest.raises(ValueError, match="the stride is 40; it must lie within 1 and the window's 32 pixels"):
        segmenter(image, NAMES, windows=NativeWindows(stride=40))


def test_other_words_on_the_same_image_run_the_aggregation_only(segmenter, monkeypatch):
    from ahs_seg_jax.inference import in_passes

    encoded = []
    encode = in_passes.encode_views
    monkeypatch.setattr(in_passes, "encode_views", lambda *args: encoded.append(len(args[2])) or encode(*args))
    image = photo(53, 59, 7)
    first = segmenter(image, ["lake", "hill"], protocol="whole", probabilities=True)
    other = segmenter(image, ["boat", "hill"], protocol="whole", probabilities=True)
    assert encoded == [1]
    fresh = Segmenter(CONFIG, random_params(CONFIG))
    expected = fresh(image, ["boat", "hill"], protocol="whole", probabilities=True)
    np.testing.assert_allclose(other.probabilities, expected.probabilities, atol=1e-6)
    assert np.abs(other.probabilities[0] - first.probabilities[0]).max() > 1e-4
    segmenter(255 - image, ["lake", "hill"], protocol="whole")
    assert encoded == [1, 1, 1]


def test_a_second_size_and_count_of_the_bucket_compile_nothing(segmenter, called):
    segmenter(photo(41, 67), NAMES, protocol="whole")
    before = dict(compiled.traces)
    segmenter(photo(127, 3), ["a", "b", "c"], protocol="whole")
    assert dict(compiled.traces) == before


def test_warm_up_compiles_what_a_call_needs(segmenter):
    segmenter.warmup(NAMES, size=(150, 150))
    before = dict(compiled.traces)
    segmenter(photo(140, 151), ["a", "b"])
    assert dict(compiled.traces) == before


def test_threads_get_the_results_of_calls_one_after_another(segmenter):
    images = [photo(41 + index, 67, index) for index in range(4)]
    jobs = [(image, [*NAMES[: 2 + index % 3], f"thing {index}"]) for index, image in enumerate(images)] * 3
    fresh = Segmenter(CONFIG, random_params(CONFIG), protocol="whole")
    with concurrent.futures.ThreadPoolExecutor(6) as threads:
        results = list(threads.map(lambda job: fresh(*job, probabilities=True), jobs))
    for (image, names), result in zip(jobs, results, strict=True):
        expected = segmenter(image, names, protocol="whole", probabilities=True)
        np.testing.assert_array_equal(result.labels, expected.labels)
        np.testing.assert_array_equal(result.probabilities, expected.probabilities)


def test_prepared_images_are_as_good_as_others(segmenter, tmp_path):
    image = photo(37, 53, 7)
    Image.fromarray(image).save(tmp_path / "a.png")
    with concurrent.futures.ThreadPoolExecutor(1) as elsewhere:
        prepared = elsewhere.submit(segmenter.prepare, tmp_path / "a.png", "whole").result()
    np.testing.assert_array_equal(prepared.image, image)
    alone = segmenter(prepared, NAMES, protocol="whole")  # its features are not known yet
    other = Segmenter(CONFIG, random_params(CONFIG))
    # Two views at once are rounded otherwise than one, and where two names are as likely the label differs.
    expected, expected_beside = other(image, NAMES, protocol="whole"), other([image, image], NAMES, protocol="whole")[1]
    beside = segmenter([image, prepared], NAMES, protocol="whole")[1]
    for found, wanted in ((alone, expected), (beside, expected_beside)):
        np.testing.assert_array_equal(found.labels, wanted.labels)
        np.testing.assert_array_equal(found.image, image)
    by_windows = segmenter(prepared, NAMES, protocol="cat_seg")
    np.testing.assert_array_equal(by_windows.labels, segmenter(image, NAMES, protocol="cat_seg").labels)
    with pytest.raises(FileNotFoundError, match="no image at"):
        segmenter.prepare(tmp_path / "none.png")


def test_a_forked_process_is_told_to_load_its_own(segmenter, monkeypatch):
    segmenter.embed_text(NAMES)
    monkeypatch.setattr("os.getpid", lambda: -1)
    with pytest.raises(RuntimeError, match=r"loaded in process .* and is used in process -1, a fork of it"):
        segmenter(photo(5, 7), NAMES)


def test_vocabulary_set_once(segmenter, called):
    fresh = Segmenter(CONFIG, random_params(CONFIG), protocol="whole")
    with pytest.raises(ValueError, match="no names: pass a list of class names, or call set_vocabulary once"):
        fresh(photo(41, 67))
    result = fresh.set_vocabulary(NAMES)(photo(41, 67))
    np.testing.assert_array_equal(result.labels, called.labels)
    assert (fresh(photo(41, 67), ["one thing"]).labels == 0).all()


def test_full_stops_and_blanks_around_names_change_nothing(segmenter, called):
    found = segmenter(called.image, [f" {name} ." for name in called.names], protocol="whole")
    assert found.names == called.names
    np.testing.assert_array_equal(found.confidence, called.confidence)


def test_unknown_by_threshold_and_by_words(segmenter, called):
    threshold = float(np.median(called.confidence))
    result = segmenter(photo(41, 67), NAMES, protocol="whole", unknown=threshold)
    np.testing.assert_array_equal(result.labels, np.where(called.confidence < threshold, -1, called.labels))
    assert result.areas["unknown"] == (called.confidence < threshold).sum()
    by_words = segmenter(photo(41, 67), NAMES[:2], protocol="whole", unknown=NAMES[2:], probabilities=True)
    np.testing.assert_array_equal(by_words.labels, np.where(called.labels < 2, called.labels, -1))
    assert by_words.probabilities.shape[0] == len(by_words.names) == 2
    with pytest.raises(ValueError, match="unknown is 'wall'; pass 'none', a probability such as"):
        segmenter(photo(5, 7), NAMES, unknown="wall")
    with pytest.raises(ValueError, match="unknown is 3; as a probability"):
        segmenter(photo(5, 7), NAMES, unknown=3)
    with pytest.raises(ValueError, match="'Sky', repeats name 1"):
        segmenter(photo(5, 7), NAMES, unknown=["Sky"])


def test_embeddings_are_those_of_the_correlation(segmenter):
    text, dense = segmenter.embed_text(NAMES), segmenter.embed_image(photo(41, 67))
    assert (text.shape, dense.shape) == ((5, 16), (4, 4, 16))
    np.testing.assert_allclose(np.linalg.norm(text, axis=-1), 1, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(dense, axis=-1), 1, atol=1e-6)


def test_many_names_in_any_script_and_a_cut(segmenter):
    names = [f"thing {index}" for index in range(60)] + ["猫", "кошка", "قطة", "n̈"]
    everything = segmenter(photo(31, 29), names, protocol="whole", probabilities=True)
    assert everything.probabilities.shape == (64, 31, 29)
    assert (everything.probabilities > 0).all()
    cut = Segmenter(CONFIG, random_params(CONFIG), keep=3)
    few = cut(photo(31, 29), names, protocol="whole", probabilities=True)
    assert (few.probabilities > 1e-9).any(axis=(1, 2)).sum() == 3
    assert Segmenter(CONFIG, random_params(CONFIG), keep="auto").engine.keep == Margin(AUTO_MARGIN, None)
    narrow = Segmenter(CONFIG, random_params(CONFIG), keep=Margin(0.0))
    kept = narrow.logits(photo(31, 29), names) > -99
    assert kept.all(axis=(1, 2)).sum() == 16  # there are 16 positions, and so few classes are best at one
    with pytest.raises(ValueError, match="keep is 0; pass a number of classes, None for all"):
        Segmenter(CONFIG, random_params(CONFIG), keep=0)


@pytest.mark.parametrize("shape", [(1, 1), (1, 10_000), (9_999, 2)])
def test_strange_shapes_are_segmented(segmenter, shape):
    for options in ({"protocol": "whole"}, {"protocol": "cat_seg"}, {"windows": NativeWindows(window=1000, overlap=0)}):
        result = segmenter(photo(*shape), NAMES, **options)
        assert result.labels.shape == shape
        assert (result.labels >= 0).all()
        assert np.isfinite(result.confidence).all()


@pytest.mark.slow
def test_five_thousand_names(segmenter):
    """All of them take part, and the first of them has the same logits as with another chunk of classes."""
    names = [f"thing {index}" for index in range(5000)]
    everything = Segmenter(CONFIG, random_params(CONFIG), keep=None)
    result = everything(photo(31, 29), names, protocol="whole", probabilities=True)
    assert result.probabilities.shape == (5000, 31, 29)
    assert (result.probabilities > 1e-9).all()
    assert len(np.unique(result.labels)) > 1
    cut = segmenter(photo(31, 29), names, protocol="whole")  # the best 256 only
    assert len(np.unique(cut.labels)) > 1


def test_a_call_refuses_what_does_not_fit(segmenter):
    bounded = Segmenter(CONFIG, random_params(CONFIG), memory_gb=0.5)
    with pytest.raises(ValueError, match=r"this needs about .* GB, more than memory_gb = 0\.5"):
        bounded(photo(5, 7), NAMES)
    assert segmenter([], NAMES) == []


def test_images_from_files_know_where_they_are_from(segmenter, tmp_path):
    Image.fromarray(photo(41, 67)).save(tmp_path / "a.png")
    result = segmenter(tmp_path / "a.png", NAMES, protocol="whole")
    assert result.source == str(tmp_path / "a.png")
    np.testing.assert_array_equal(result.image, photo(41, 67))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_parameters_that_are_not_finite_are_refused(value):
    params = random_params(CONFIG)
    params["clip"]["logit_scale"] = np.float32(value)
    with pytest.raises(ValueError, match=r"hold values that are not finite \(NaN or infinity\) in clip/logit_scale"):
        Segmenter(CONFIG, params)
