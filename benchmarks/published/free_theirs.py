"""Published training-free programs at work: `python -m benchmarks.published.free_theirs FOLDER PROGRAM CASES OUTPUT`.

In eager mode and float32, without their rounding of CLIP to half precision; the text is given, not encoded. None of
their code is here; modules come from FOLDER/PROGRAM. `CASES` is a JSON file of `free_job`, beside which `weights.npz`
and the resized pictures (`0.npy` ...) lie. OUTPUT holds logits, probabilities and labels of each case.
"""

import importlib
import pathlib
import sys
import types
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.published import free_job, naclip, stand_ins
from benchmarks.published.free_job import PROGRAMS, TOWERS, FreeCase

MODULES = {
    "NACLIP": "naclip",
    "SCLIP": "clip_segmentor",
    "ClearCLIP": "clearclip_segmentor",
    "SC-CLIP": "scclip_segmentor",
    "PEARL": "pearl_ovss",
}
UNUSED = (  # what the programs import, and what these works do not use
    *("torchvision.transforms.functional", "torchvision.ops", "torchvision.ops.misc"),
    *("BLIP", "BLIP.models", "BLIP.models.blip_retrieval", "gem"),
)
CLEARCLIP = {"clearclip": ("ClearCLIP", True), "maskclip": ("MaskCLIP", True), "maskclip_residual": ("MaskCLIP", False)}


class Nothing(types.ModuleType):
    """A module of names that are imported and not used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return None


def install(folder: pathlib.Path, program: str) -> tuple[type[nn.Module], Any]:
    """The program's segmentor, and its module that has the image tower. Raises FileNotFoundError without it."""
    if not (folder / f"{MODULES[program]}.py").is_file():
        raise FileNotFoundError(f"{folder} holds no {MODULES[program]}.py; pass the folder that holds {program}/")
    naclip.stand_in()
    for name in UNUSED:
        if not stand_ins.installed(name.partition(".")[0]):
            stand_ins.put(name, {}, Nothing)
    sys.path.insert(0, str(folder))
    if program == "ClearCLIP":
        torch.Tensor.half = lambda self, *_, **__: self  # type: ignore[method-assign]
        package = stand_ins.put("open_clip", {"tokenizer": None, "create_model": None})
        package.__path__ = [str(folder / "open_clip")]
    towers = importlib.import_module("open_clip.transformer" if program == "ClearCLIP" else "clip.model")
    found = vars(importlib.import_module(MODULES[program])).values()
    own = [kind for kind in found if isinstance(kind, type) and issubclass(kind, naclip.Segmentor)]
    return next(kind for kind in own if kind is not naclip.Segmentor), towers


def image_side(program: str, towers: Any, tower: free_job.Tower, weights: dict[str, np.ndarray]) -> Any:
    """The program's CLIP, of which the image tower alone is there."""
    sizes = (tower.square, tower.patch, tower.width, tower.layers, tower.heads)
    more = {"mlp_ratio": 4.0, "act_layer": towers.QuickGELU} if program == "ClearCLIP" else {}
    visual = towers.VisionTransformer(*sizes, output_dim=tower.embed_dim, **more)
    visual.load_state_dict({name.removeprefix("visual."): torch.from_numpy(value) for name, value in weights.items()})
    visual.eval().requires_grad_(False)
    return types.SimpleNamespace(visual=visual, encode_image=visual.__call__)


def segmentor(kind: type[nn.Module], net: Any, case: FreeCase) -> Any:
    """The program's model for a case, made without its constructor, which would read and encode files."""
    module = sys.modules[kind.__module__]
    model: Any = kind.__new__(kind)
    nn.Module.__init__(model)
    visual, text = net.visual, torch.from_numpy(case.text())
    values = {
        "net": net,
        "query_features": text,
        "query_idx": torch.tensor(case.classes),
        "num_queries": len(case.classes),
        "num_classes": max(case.classes) + 1,
        "dtype": torch.float32,
        "logit_scale": case.scale,
        "prob_thd": case.probability,
        "area_thd": case.area or None,
        "slide_stride": case.stride,
        "slide_crop": case.window,
        "align_corners": False,
        "pamr": None,
        "prop": None,
        "clip_type": "CLIP",
        "patch_size": visual.patch_size,
    }
    for name, value in values.items():
        setattr(model, name, value)
    if case.method in CLEARCLIP:
        model.model_type, model.ignore_residual = CLEARCLIP[case.method]
    elif case.method == "naclip":
        visual.addition_cache = {}
        visual.set_params("reduced", "naclip", case.gaussian_std)
        model.pamr = module.PAMR(10, dilations=(8, 16))
    elif case.method == "clip":
        visual.set_params("vanilla", "vanilla", case.gaussian_std)
    elif case.method == "sc_clip":
        names = ("pre_adjust_idx", "post_adjust_idx", "multi_start_idx", "multi_end_idx")
        vars(visual).update(zip(names, free_job.SC_CLIP_BLOCKS[TOWERS[case.tower].layers], strict=True))
    elif case.method == "pearl":
        visual.set_params("reduced", "pearl")
        visual.set_attn_options(use_kk=True, alpha_kk=case.pearl_alpha, align_solver="polar", polar_iters=5)
        model.prop = module.TLP(grid=case.pearl_grid)
        model.prop.bind_text(text)
    return model


@torch.no_grad()
def run(model: Any, case: FreeCase, resized: np.ndarray) -> dict[str, np.ndarray]:
    """Logits `[q, H, W]` after the refinement, probabilities `[t, H, W]` and labels of a case."""
    kept: dict[str, np.ndarray] = {}
    finish = model.postprocess_result

    def keep(logits: torch.Tensor, samples: Any) -> Any:
        kept["logits"] = logits[0].numpy().copy()
        return finish(logits, samples)

    model.postprocess_result = keep
    sample = naclip.Sample({"ori_shape": case.size, "img_path": ""})
    model.predict(naclip.normalised(torch.from_numpy(resized).permute(2, 0, 1)[None].float()), [sample])
    found = {"probabilities": sample.found["seg_logits"], "labels": sample.found["pred_sem_seg"][0]}
    return kept | {name: value.numpy() for name, value in found.items()}


def main() -> None:
    """Runs the cases of the program."""
    folder, program, path, output = pathlib.Path(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3]), sys.argv[4]
    kind, towers = install(folder / program, program)
    with np.load(path.with_name("weights.npz")) as file:
        weights = dict(file)
    cases, net = free_job.read_cases(path), None
    found: dict[str, np.ndarray] = {}
    for index, case in enumerate(cases):
        if PROGRAMS[case.method] == program:
            net = net or image_side(program, towers, TOWERS[case.tower], weights)
            result = run(segmentor(kind, net, case), case, np.load(path.with_name(f"{index}.npy")))
            found |= {f"{index}/{name}": value for name, value in result.items()}
    np.savez(output, allow_pickle=False, **found)


if __name__ == "__main__":
    main()
