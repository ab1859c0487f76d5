"""What the page answers: results, changed words, and a sentence for each mistake. The packaged model, no Gradio."""

import io

import numpy as np
import pytest
from PIL import Image

from ahs_seg_jax.admission import UPLOADED_AGAIN
from ahs_seg_jax.checkpoints import packaged
from ahs_seg_jax.demo import answers, examples, html
from ahs_seg_jax.demo.answers import Limits, answer
from ahs_seg_jax.inference import in_passes
from ahs_seg_jax.pictures import overlays
from ahs_seg_jax.segmenter import Segmentation, Segmenter


@pytest.fixture(scope="module")
def segmenter():
    return Segmenter.from_pretrained(packaged.TINY)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "scene.png"
    Image.fromarray(examples.examples()[0].image).save(path)
    return path


def test_an_image_and_its_words(segmenter, first):
    example = examples.examples()[0]
    found = answer(segmenter, first, "\n".join(example.names))
    assert not found.failed
    assert found.message.startswith("384 x 384 pixels, 10 names, ")
    assert {row.name for row in found.rows} == set(example.names[:5])
    assert found.absent == example.names[5:]
    assert sum(row.pixels for row in found.rows) == 384 * 384
    assert sum(row.share for row in found.rows) == pytest.approx(1)
    largest = found.rows[0]
    mask = found.result.labels == example.names.index(largest.name)
    assert (largest.pixels, largest.confidence) == (mask.sum(), pytest.approx(found.result.confidence[mask].mean()))
    assert largest.color == tuple(found.result.colors[example.names.index(largest.name)])
    assert answers.Kept.of(found.result).overlay(0.6).shape == (640, 640, 3)
    assert answers.confidence(found.result).shape[1] == 640


def test_other_words_on_the_same_image_encode_no_image(segmenter, first, monkeypatch):
    encoded = []
    encode = in_passes.encode_views
    monkeypatch.setattr(in_passes, "encode_views", lambda *given: encoded.append(len(given[2])) or encode(*given))
    fresh = Segmenter.from_pretrained(packaged.TINY)
    assert "the image was encoded and" in answer(fresh, first, "grass; brick wall").message
    again = answer(fresh, first, "grass; brick wall; striped red toy")
    assert encoded == [1]
    assert "features were kept" in again.message
    assert again.result.names == ("grass", "brick wall", "striped red toy")
    # The words, not the kept image, decide: the same as a segmenter that has seen neither.
    assert (again.result.labels == segmenter(first, ["grass", "brick wall", "striped red toy"]).labels).all()


def test_unnamed_pixels_have_a_row(segmenter, first):
    found = answer(segmenter, first, "grass; sand", least_confidence=1.0)
    assert [(row.name, row.share, row.color) for row in found.rows] == [("unknown", 1.0, (0, 0, 0))]
    assert found.absent == ("grass", "sand")


def test_words_of_lines_semicolons_and_synonyms():
    assert answers.split_words(" cat\n\n sofa,couch ;; tree;\n") == ["cat", "sofa, couch", "tree"]


def test_words_that_the_small_model_never_saw(segmenter, first):
    known = frozenset({"red", "toy", "grass"})
    assert "never trained" not in answer(segmenter, first, "Red toy, apple; grass", known_words=known).message
    assert (
        "mean nothing: cat, red cat were never" in answer(segmenter, first, "cat; red cat", known_words=known).message
    )


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (" \n;", "Type at least one name"),
        ("a;b;c;d", "These are 4 names; this page takes 3. Remove some, or use `ahs-seg segment`"),
        ("cat; Cat", "repeats name"),
        ("very " * 40 + "long", "text context holds 32 tokens"),
    ],
)
def test_mistakes_in_words(segmenter, first, words, text):
    found = answer(segmenter, first, words, limits=Limits(classes=3))
    assert found.failed
    assert text in found.message
    assert html.table(found) == ""


def png(height: int, width: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "photo.jpg: the file is empty"),
        (b"no image", "photo.jpg is not an image that can be read"),
        (png(90, 90)[:-30], "photo.jpg is damaged or cut off"),
        (png(201, 100), "photo.jpg has 100 x 201 = 0 megapixels; the limit is 0"),
        (bytes(1_100_000), "photo.jpg has 1.0 MB; this page takes 1"),
    ],
)
def test_mistakes_in_files_are_named_as_people_know_them(segmenter, tmp_path, data, text):
    path = tmp_path / "stored_elsewhere"
    path.write_bytes(data)
    found = answer(segmenter, path, "cat", limits=Limits(upload_mb=1, megapixels=0.02), shown_name="photo.jpg")
    assert found.failed
    assert text in found.message
    assert str(tmp_path) not in found.message


@pytest.mark.parametrize(
    "error", [OSError(28, "no space left", "/var/secret"), MemoryError("/var/secret"), KeyError(1)]
)
def test_unforeseen_errors_are_sentences_that_tell_nothing_of_this_machine(first, caplog, error):
    class Broken:
        def remembers(self, image):
            raise error

    found = answer(Broken(), first, "cat", shown_name="photo.jpg")
    assert found.message == f"This image could not be segmented ({type(error).__name__}); the page's log says more."
    assert repr(error) in caplog.text


def test_a_file_that_is_gone(segmenter, tmp_path):
    assert answer(segmenter, tmp_path / "gone.png", "cat").message == UPLOADED_AGAIN


def test_what_is_kept_of_a_result_is_small_and_draws_the_same_picture():
    rng = np.random.default_rng(0)
    names, size = tuple(f"name {number}" for number in range(300)), (3000, 4000)
    image = np.repeat(np.repeat(rng.integers(0, 256, (30, 40, 3), np.uint8), 100, 0), 100, 1)
    labels = np.repeat(np.repeat(rng.integers(-1, 300, (30, 40)).astype(np.int32), 100, 0), 100, 1)
    result = Segmentation(image, labels, names, np.ones(size, np.float32))
    kept = answers.Kept.of(result)
    assert len(kept.image) + len(kept.labels) + kept.colors.nbytes < 5 * 2**20
    shape = answers._screen_size(*size)
    for alpha in (0.0, 0.6, 1.0):
        expected = overlays.overlay(
            answers._resized(image, shape, Image.Resampling.LANCZOS),
            answers._resized(labels, shape, Image.Resampling.NEAREST),
            result.colors,
            alpha,
        )
        np.testing.assert_array_equal(kept.overlay(alpha), expected)


def test_no_image():
    assert answer(None, None, "cat").message == "Upload an image, or pick an example."


def test_large_and_small_images_come_at_the_size_of_a_screen():
    assert answers._screen_size(3000, 4000) == (960, 1280)
    assert answers._screen_size(97, 48) == (640, 317)
    assert answers._screen_size(701, 1000) == (701, 1000)
    assert answers._screen_size(1, 10000) == (1, 1280)


def test_html_escapes_what_was_typed(segmenter, first):
    found = answer(segmenter, first, "<b>grass</b>; <script>x</script>")
    written = html.table(found) + html.message(answers.Answer("<i>")) + html.header("<i>", "<b>")
    assert "<b>" not in written
    assert "<script>" not in written
    assert "<i>" not in written
    assert "&lt;b&gt;grass" in written


def test_every_class_with_pixels_has_a_line_and_the_rest_a_sentence(segmenter, first):
    found = answer(segmenter, first, "\n".join(examples.examples()[0].names))
    table = html.table(found)
    assert table.count('<th scope="row">') == len(found.rows)
    assert "Not found: " + "; ".join(found.absent) in table


def test_examples_are_words_of_their_images_and_others():
    for example in examples.examples():
        assert example.image.shape == (384, 384, 3)
        assert len(set(example.names)) == len(example.names) >= 7
