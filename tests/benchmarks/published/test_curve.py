"""Loss curves of both programs: what they share, bounds by hand, and the published programs themselves (slow)."""

import dataclasses
import json
import os
import pathlib

import numpy as np
import pytest

from ahs_seg_jax.checkpoints import pretrained
from ahs_seg_jax.checkpoints.formats import layouts
from ahs_seg_jax.config import recipes
from ahs_seg_jax.training import optimizer
from benchmarks import results_file
from benchmarks.published import curve, curve_job, curve_ours, curve_page
from benchmarks.published.curve_job import IGNORE, RECIPES, SIZES, CurveJob, batch, clip_weights

JOB = CurveJob(recipe="catseg", folder="/programs/CAT-Seg", clip="clip.npz", seeds=(0, 1), names=curve.NAMES, updates=3)


@pytest.fixture(scope="module")
def published() -> list[pathlib.Path]:
    """The folders of the published programs, which AHS_SEG_PUBLISHED lists as PATH lists its own."""
    folders = [pathlib.Path(name) for name in os.environ.get("AHS_SEG_PUBLISHED", "").split(os.pathsep) if name]
    if not folders:
        pytest.skip("no published programs (set AHS_SEG_PUBLISHED to the folders of CAT-Seg and AHS-Seg)")
    return folders


def test_batches_are_the_same_in_both_processes(tmp_path):
    JOB.write(tmp_path / "job.json")
    assert CurveJob.read(str(tmp_path / "job.json")) == JOB
    (images, labels), (again, _), (others, _) = batch(JOB, 5), batch(JOB, 5), batch(JOB, 6)
    assert images.shape == (2, 96, 96, 3)
    assert labels.shape == (2, 96, 96)
    np.testing.assert_array_equal(images, again)
    assert (images != others).any()
    found = np.unique(labels)
    assert set(found) <= {0, 1, 2, 3, 4, 5, IGNORE}
    assert len(found) == 7
    # A class has one colour in all images: there is something to learn.
    means = [[image[label == 2].mean(0) for image, label in zip(*batch(JOB, index), strict=True)] for index in (0, 1)]
    assert np.ptp(np.reshape(means, (4, 3)), axis=0).max() < 6


def test_weights_are_a_clip_of_the_small_size(tmp_path):
    small = dataclasses.replace(SIZES, vocab=101, layers=3)
    np.savez(tmp_path / "clip.npz", allow_pickle=False, **clip_weights(small))
    model = curve_ours.small(recipe("catseg").model, small)
    config = pretrained.load_pretrained(tmp_path / "clip.npz", model, activation="quick_gelu").config
    assert (config.image.layers, config.image.width, config.image.patch_size, config.image.crop) == (3, 96, 4, 96)
    assert (config.text.layers, config.text.width, config.text.vocab_size, config.embed_dim) == (3, 64, 101, 64)
    weights = clip_weights(small)
    assert all((value == value.astype(np.float16)).all() for value in weights.values() if value.ndim)


def recipe(name: str):
    return curve_ours.experiment(dataclasses.replace(JOB, recipe=name), 7)


@pytest.mark.parametrize("name", list(RECIPES))
def test_what_is_trained_is_the_recipe(name):
    """The components' recipe is as published but for the three components, which the published program cannot run."""
    found = recipe(name)
    assert (found.seed, found.init, found.model.dtype, found.train.batch_size) == (7, "clip.npz", "float32", 2)
    assert (found.train.steps, found.model.grid, found.model.text_blocks, found.model.image_blocks) == (
        80_000,
        24,
        4,
        6,
    )
    components = ["model.adaptation", "model.mh_fpn", "model.dc_hsp"] if name == "components" else []
    assert [line.split()[0] for line in recipes.differences(found, name)] == components


def test_distance_from_the_same_weights_by_hand():
    first, norms = [1.0] * 50, {"gradient_norm": [4.0] * 51}
    published = {"loss": [*first, 0.5], **norms}
    ours = {"loss": [1.0005] * 50 + [0.505], "gradient_norm": [4.2] * 51}
    assert curve.same(published, ours, {"loss": [1.0005] * 50 + [0.5151]}) == {
        "largest_first": pytest.approx(5e-4),
        "largest": pytest.approx(1e-2),
        "at_last": pytest.approx(1e-2),
        "largest_gradient_norm_first": pytest.approx(0.05),
        "largest_of_rounding_first": 0.0,
        "largest_of_rounding": pytest.approx(2e-2),
        "within": True,
    }
    early = {"loss": [1.002] * 50 + [0.5], **norms}
    assert not curve.same(published, early, early)["within"]
    late = {"loss": [*first, 0.52], **norms}
    assert not curve.same(published, late, late)["within"]
    assert not curve.same(published, late, {"loss": [*first, 0.47]})["within"], "rounding excuses nothing"


def curves(*losses: float) -> list[dict]:
    return [{"loss": [loss, *[1.0] * 8, 2 * loss]} for loss in losses]


def test_distance_from_fresh_values_by_hand():
    found = curve.fresh(curves(1.0, 2.0, 3.0), curves(2.0, 3.0, 4.0))
    assert list(found["marks"]) == ["1", "10"]
    first = found["marks"]["1"]
    assert first["published"] == pytest.approx([2.0, 1.0])
    assert first["ours"] == pytest.approx([3.0, 1.0])
    assert first["standard_errors"] == pytest.approx(1 / np.sqrt(2 / 3))
    assert found["within"]
    assert not curve.fresh(curves(1.0, 2.0, 3.0), curves(3.0, 4.0, 5.0))["within"]


def folder_of(tmp_path: pathlib.Path, name: str) -> pathlib.Path:
    for file in (RECIPES[name].needs, RECIPES[name].config):
        (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name / file).touch()
    return tmp_path / name


def test_program_is_chosen_by_what_it_can_run(tmp_path):
    first, second = folder_of(tmp_path, "catseg"), folder_of(tmp_path, "orthogonal")
    assert curve.folder_for("catseg", [second, first]) == first
    assert curve.folder_for("orthogonal", [first, second]) == second
    with pytest.raises(
        FileNotFoundError, match=r"recipe components needs .*enhanced_cat_seg_model\.py and .*there is none"
    ):
        curve.folder_for("components", [first, second])


def test_records_plot_and_verdict(monkeypatch, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    moved = 0.0

    def reply(module, job, folder, title, environment):
        shift = moved if module.endswith("ours") else 0.0
        losses = lambda seed: [1 / (1 + update) + 0.01 * seed + shift for update in range(job.updates)]
        found = [{"seed": seed, "loss": losses(seed), "gradient_norm": [1.0] * job.updates} for seed in job.seeds]
        return {"curves": found, "versions": {title: "1"}, "hardware": {"platform": "cpu"}}

    monkeypatch.setattr(curve.side_by_side, "reply_of", reply)
    output, image = tmp_path / "curves.json", tmp_path / "images" / "curves.png"
    command = [
        "--program",
        str(folder_of(tmp_path, "catseg")),
        "--recipes",
        "catseg",
        "--updates",
        "12",
        "--seeds",
        "3",
    ]
    command += ["--output", str(output), "--image", str(image)]
    assert curve.main(command) == 0
    same, fresh = results_file.read(output)
    assert (same["name"], fresh["name"]) == ("curve_same_catseg", "curve_fresh_catseg")
    assert (len(same["ours"]), len(fresh["published"]), len(fresh["ours"][0])) == (1, 3, 12)
    assert same["settings"]["program"] == "catseg"
    assert image.stat().st_size > 5000
    page = curve_page.block([same, fresh])
    assert "| catseg | 12 | 2 | 1.0000 to 0.0833" + 7 * " | 0.0e+00" + " |" in page
    assert "| catseg | 10 | 3 | 0.1100 ± 0.0100 | 0.1100 ± 0.0100 | 0.00 |" in page
    without = {name: value for name, value in same.items() if "moved" not in name and "rounding" not in name}
    assert "| 0.0e+00 | not run | not run | not run |" in curve_page.block([without])
    assert curve_page._typical([1.0] * 7 + [2.0, 2.0], [1.0] * 7 + [2.1, 2.3]) == "1.0e-01"  # of two, their mean
    curve_page.plot([without], tmp_path / "without.png")
    moved = 0.1
    assert curve.main(command) == 1
    assert "curve_same_catseg: losses apart by 1.2e+00 in the first 50 updates" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------ the published programs

TRAIN_NET = """
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import SemSegEvaluator
from detectron2.projects.deeplab import add_deeplab_config
from cat_seg import add_cat_seg_config

class Evaluator(SemSegEvaluator): pass

class Trainer(DefaultTrainer):
    @classmethod
    def build_optimizer(cls, cfg, model):
        return cfg, model
"""


def test_trainer_is_that_of_the_folder(tmp_path):
    pytest.importorskip("torch")
    from benchmarks.published import stand_ins
    from tests.support.published_program import forget

    (tmp_path / "cat_seg").mkdir()
    (tmp_path / "cat_seg" / "cat_seg_model.py").touch()
    try:
        stand_ins.install(tmp_path)
        with pytest.raises(FileNotFoundError, match=r"train_net\.py"):
            stand_ins.trainer(tmp_path)
        (tmp_path / "train_net.py").write_text(TRAIN_NET)
        assert stand_ins.trainer(tmp_path).build_optimizer(1, 2) == (1, 2)
    finally:
        forget()


PUBLISHED_FIELDS = {
    "train.learning_rate": "SOLVER.BASE_LR",
    "train.clip_multiplier": "SOLVER.CLIP_MULTIPLIER",
    "train.weight_decay": "SOLVER.WEIGHT_DECAY",
    "train.clip_norm": "SOLVER.CLIP_GRADIENTS.CLIP_VALUE",
    "train.warmup_steps": "SOLVER.WARMUP_ITERS",
}


@pytest.mark.parametrize("name", list(RECIPES))
def test_recipes_are_those_of_the_published_files(published, name):
    """The values that "differs from the published recipe ..." compares with."""
    yaml = pytest.importorskip("yaml")
    path = curve.folder_for(name, published) / RECIPES[name].config
    base, changes = (yaml.safe_load(file.read_text()) for file in (path.with_name("config.yaml"), path))

    def value(field: str):
        found = [base, changes]
        for part in field.split("."):
            found = [section.get(part, {}) for section in found]
        return found[1] if found[1] != {} else found[0]

    for ours, theirs in PUBLISHED_FIELDS.items():
        assert recipes.RECIPES[name][ours][0] == value(theirs), ours
    assert value("MODEL.SEM_SEG_HEAD.POOLING_SIZES") == [recipes.RECIPES[name]["train.class_pooling"][0]] * 2
    assert value("SOLVER.MAX_ITER") == recipe(name).train.steps


def published_groups(folder: pathlib.Path, name: str, clip: pathlib.Path) -> dict[str, tuple[float, float]]:
    """Rate and weight decay of each parameter in the published optimiser, by its name."""
    from benchmarks.published import curve_theirs, stand_ins, theirs
    from tests.support.published_program import forget

    np.savez(clip, allow_pickle=False, **clip_weights())
    job = dataclasses.replace(JOB, recipe=name, folder=str(folder), clip=str(clip))
    try:
        registry = theirs.install(job.folder)
        config = curve_theirs.small_config(job)
        model = curve_theirs.build(registry, config, job)
        groups = stand_ins.trainer(folder).build_optimizer(config, model).param_groups
    finally:
        forget()
    known = {id(value): (group["lr"], group["weight_decay"]) for group in groups for value in group["params"]}
    return {name: known[id(value)] for name, value in model.named_parameters() if id(value) in known}


@pytest.mark.parametrize("name", list(RECIPES))
@pytest.mark.filterwarnings("default")
def test_everything_learns_at_the_published_rate_and_decay(published, tmp_path, monkeypatch, name):
    pytest.importorskip("einops")
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.Tensor, "cuda", torch.Tensor.cuda)  # put back afterwards
    groups = published_groups(curve.folder_for(name, published), name, tmp_path / "clip.npz")
    described = recipe(name)
    train, differing = described.train, set()
    seen: dict[str, tuple[float, float] | None] = {}  # a tensor of theirs may hold several parameters of ours
    for entry in layouts.entries("catseg" if name == "catseg" else "ahs_seg", described.model):
        inside = optimizer.group(entry.target) in optimizer.INSIDE_CLIP
        rate = train.learning_rate * (train.clip_multiplier if inside else 1.0)
        ours = (rate, train.weight_decay if optimizer.decays(entry.target) else 0.0)
        learns = optimizer.is_trainable(entry.target, train.finetune)
        theirs = next((groups.pop(found) for found in (entry.source, *entry.aliases) if found in groups), None)
        theirs = theirs or seen.get(entry.source)
        seen[entry.source] = theirs
        if theirs != (pytest.approx(ours) if learns else None):
            differing.add(entry.target)
    # The weights under a rotation get no gradient there, though the optimiser of this recipe holds the image tower's.
    kernels = {f"clip/image/blocks/{part}/kernel" for part in ("query", "key", "value", "out")}
    assert differing == (kernels if name == "components" else set())
    assert not groups


@pytest.mark.slow
@pytest.mark.parametrize("name", list(RECIPES))
def test_curves_of_the_published_programs(published, tmp_path, name):
    """Two updates from the same weights: rounding apart, the losses are equal, and so are the gradients."""
    pytest.importorskip("einops")
    output = tmp_path / "curves.json"
    command = ["--program", *map(str, published), "--recipes", name, "--parts", "same", "--updates", "2"]
    command += ["--batch", "1", "--output", str(output), "--image", str(tmp_path / "curves.png")]
    assert curve.main(command) == 0
    (record,) = json.loads(output.read_text())["records"]
    assert record["largest"] < 1e-5
    assert record["largest_gradient_norm_first"] < 1e-3


def test_sizes_name_what_the_published_program_fixes():
    assert (SIZES.grid, SIZES.layers, SIZES.crop) == (24, 12, 96)
    assert SIZES.text_width == 4 * SIZES.block
    assert SIZES.image_width == 6 * SIZES.block
    assert curve_job.PATCHES * 16 == SIZES.crop
