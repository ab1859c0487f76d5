"""`ahs-seg evaluate --model`: benchmarks scored by a training-free method, or by what a checkpoint was trained for."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from ahs_seg_jax.cli import app as cli
from ahs_seg_jax.cli import evaluate_model
from ahs_seg_jax.cli.evaluate_model import ByMethod, Chosen
from ahs_seg_jax.config import EvalConfig
from ahs_seg_jax.evaluation.published_methods import published
from ahs_seg_jax.models.training_free import TrainingFree
from ahs_seg_jax.segmenter import Background
from ahs_seg_jax.vocabulary import Vocabulary
from tests.support import trees
from tests.support.commands import data_command


@pytest.fixture
def root(tmp_path):
    """Miniature downloads of PASCAL VOC, prepared with background as the first class."""
    trees.voc(tmp_path, {f"2007_{k:06d}": np.full((48, 64), k, np.uint8) for k in range(2)})
    data_command(["prepare", "voc_21", "--root", str(tmp_path), "--partial", "--jobs", "1"])
    return tmp_path


def evaluate(root, *arguments: str):
    common = ["--model", "tiny", "--benchmark", "voc_21", "--root", str(root), "--workdir", str(root / "run")]
    return CliRunner().invoke(cli.app, ["evaluate", *common, *arguments])


class Recorded:
    """In a segmenter's place: answers with the given labels, and writes down how it was called."""

    def __init__(self, labels):
        self.labels, self.calls = np.array(labels, np.int32), []

    def __call__(self, image, names, **options):
        self.calls.append((names, options))
        return self


def test_the_first_class_is_the_background_of_the_others():
    segmenter, names = Recorded([[-1, 0, 1]]), Vocabulary(("background, sky", "cat", "dog, puppy"), synonyms="best")
    by = ByMethod(lambda: segmenter, published("sclip", "voc_21"), names, background=True)
    assert by(np.zeros((1, 3, 3), np.uint8)).tolist() == [[0, 1, 2]]
    ((given, options),) = segmenter.calls
    assert (given.names, given.synonyms) == (("cat", "dog, puppy"), "best")
    assert options == {"unknown": Background(("background, sky",), 0.1, 0.1)}
    without = ByMethod(lambda: segmenter, published("sclip", "voc_20"), names, background=False)
    assert without(np.zeros((1, 3, 3), np.uint8)).tolist() == [[-1, 0, 1]]
    assert segmenter.calls[1] == (names, {})


def test_results_say_which_method_with_which_settings():
    names = Vocabulary(("background", "cat"))
    by = ByMethod(lambda: None, published("naclip", "voc_21"), names, background=True)
    facts = by.described()
    assert (facts["protocol"], facts["published"]) == ("naclip", True)
    assert (facts["settings"]["refine"], facts["settings"]["window"]) == ("pamr", 0)
    assert facts["background"] == {"probability": 0.1, "area": 0.0}
    json.dumps(facts)
    other = evaluate_model.refined(published("naclip", "voc_21"), "none")
    facts = ByMethod(lambda: None, other, names, background=False).described()
    assert (facts["protocol"], facts["published"], facts["background"]) == ("naclip_none", False, None)


def test_a_method_of_the_clip_inside_a_checkpoint(root):
    done = evaluate(root, "--method", "naclip", "--refine", "none", "--allow-bad-data", "--expected", "naclip_vitb16")
    assert done.exit_code == 0, done.output
    content = json.loads((root / "run/results/voc_21_val_naclip_none.json").read_text())
    assert content["method"]["settings"]["method"] == "naclip"
    assert (content["vocabulary"]["synonyms"], len(content["vocabulary"]["templates"])) == ("best", 80)
    assert [row["pixels"] for row in content["classes"][:3]] == [48 * 64, 48 * 64, 0]
    assert content["expected"]["verdict"] == "unknown"  # of another protocol, naclip with PAMR
    assert content["checkpoint"]["path"] == "tiny"
    predicted = np.array([row["predicted"] for row in content["classes"]])
    assert predicted.sum() == 2 * 48 * 64
    again = evaluate(root, "--method", "naclip", "--refine", "none", "--allow-bad-data")
    assert "voc_21: evaluated already" in again.output


def test_what_a_checkpoint_was_trained_for_by_the_protocol_of_its_training(root):
    done = evaluate(root, "--allow-bad-data", "--limit", "1")
    assert done.exit_code == 0, done.output
    content = json.loads((root / "run/results/voc_21_val.json").read_text())
    assert (content["protocol"], content["vocabulary"]["templates"]) == ("whole", ["{}"])
    assert "method" not in content


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "dino"], "unknown training-free method 'dino'; choose one of maskclip, "),
        (["--method", "naclip", "--refine", "crf"], "refine is 'crf'; choose one of auto, none, pamr, propagation"),
        (
            ["--method", "naclip", "--protocol", "whole"],
            "--protocol whole is for trained models; naclip sees images as",
        ),
        (["--method", "sc_clip"], "sc_clip has published constants for towers of 12 blocks, and this one has 4"),
        (["--method", "naclip"], "the data are not what they should be"),
        (["--benchmark", "voc"], "data.name is 'voc'; choose one of"),
        (["--expected", "clip"], "eval.expected is 'clip'; choose one of catseg_vitb16"),
        (["--config=configs/tiny.py"], "with --model there is no --config=configs/tiny.py"),
    ],
)
def test_mistakes(root, arguments, words):
    allowed = [] if "the data" in words else ["--allow-bad-data"]
    done = evaluate(root, *arguments, *allowed)
    assert done.exit_code == 2
    assert words in done.output


def test_a_benchmark_needs_a_model_and_a_model_a_benchmark():
    alone = CliRunner().invoke(cli.app, ["evaluate", "--config=configs/tiny.py", "--benchmark", "voc_21", "--quick"])
    assert alone.exit_code == 2
    assert "--benchmark, --quick needs --model; a configuration has fields" in " ".join(alone.output.split())
    with pytest.raises(ValueError, match="no benchmark: give --benchmark, one of coco_stuff, "):
        evaluate_model.check(Chosen("tiny"), EvalConfig())


def test_folders_are_called_after_the_model():
    named = {"openai/clip-vit-base-patch16": "clip-vit-base-patch16", "a b/c d.pt": "c_d.pt", "runs/x/": "x"}
    assert {model: evaluate_model.short_name(model) for model in named} == named


def test_settings_of_a_benchmark_make_one_segmenter(monkeypatch):
    made = []

    class Counted:
        def __init__(self, config, params, *, method):
            made.append(method)

    monkeypatch.setattr(evaluate_model, "Segmenter", Counted)
    from ahs_seg_jax.checkpoints.pretrained import load_pretrained
    from tests.support.color_model import ListSource

    of = evaluate_model.methods(load_pretrained("tiny"), Chosen("tiny", "naclip"))
    first, second = (of(name, ListSource([0], [[[0]]])).labeller for name in ("voc_20", "voc_21"))
    assert first.segmenter() is second.segmenter()
    assert made == [TrainingFree("naclip", logit_scale=40.0, short_side=336, window=0, refine="pamr")]
