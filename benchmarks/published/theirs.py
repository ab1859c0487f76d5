"""The published PyTorch program at work, in a process of its own: `python -m benchmarks.published.theirs JOB OUTPUT`.

It runs in eager mode, as published, or under `torch.compile`. None of its code is here; its modules come from the
folder that the job names.
"""

import contextlib
import importlib
import io
import json
import math
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.published import job as jobs
from benchmarks.published import onnx_export, stand_ins
from benchmarks.published.job import Job, seen, training_batch

CONFIGS = ("configs/vitb_384_oft.yaml", "configs/vitb_384.yaml")  # the first that the folder has
MODULES = {"EnhancedCATSeg": "enhanced_cat_seg_model"}  # architecture -> its module, where that is another one
POOLING = {"training": [2, 2], "whole": [1, 1], "sliding": [1, 1], "weights": [1, 1]}  # as its scripts set it


def build(job: Job) -> nn.Module:
    """The published model with CLIP, before any weights are loaded into it."""
    registry = install(job.folder)
    folder = pathlib.Path(job.folder)
    path = next((folder / name for name in CONFIGS if (folder / name).is_file()), folder / CONFIGS[-1])
    config = read_config(path)
    config.MODEL.SEM_SEG_HEAD.POOLING_SIZES = POOLING[job.work]
    config.TEST.SLIDING_WINDOW = job.work == "sliding"
    return construct(registry, config, job.names, lambda clip: clip.build_model(clip_shapes())).to(job.device)


def install(folder: str) -> stand_ins.Registry:
    """Makes the program in the folder importable, once for a process; returns the registry of its models."""
    registry = stand_ins.install(pathlib.Path(folder))
    if not torch.cuda.is_available():
        for kind in (torch.Tensor, FunctionalTensor):  # the latter while `torch.compile` traces
            kind.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
    return registry


def read_config(path: pathlib.Path) -> stand_ins.Config:
    """One of the published program's own configurations, with its defaults."""
    config = stand_ins.Config()
    importlib.import_module("cat_seg.config").add_cat_seg_config(config)
    for source in (path.with_name("config.yaml"), path):
        config.update_from({k: v for k, v in yaml.safe_load(source.read_text()).items() if k != "_BASE_"})
    return config


def construct(
    registry: stand_ins.Registry, config: stand_ins.Config, names: Sequence[str], make_clip: Callable[[Any], nn.Module]
) -> nn.Module:
    """The model of a configuration for these classes; `make_clip` makes CLIP, given the program's module for it."""
    # It prints every parameter's name, and reads the class names from files.
    with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as folder:
        head, architecture = config.MODEL.SEM_SEG_HEAD, config.MODEL.META_ARCHITECTURE
        file = pathlib.Path(folder) / "names.json"
        file.write_text(json.dumps(list(names)))
        head.TRAIN_CLASS_JSON = head.TEST_CLASS_JSON = str(file)
        head.NUM_CLASSES = len(names)
        for module in ("modeling.heads.cat_seg_head", MODULES.get(architecture, "cat_seg_model")):
            importlib.import_module(f"cat_seg.{module}")
        predictor = importlib.import_module("cat_seg.modeling.transformer.cat_seg_predictor").CATSegPredictor
        clip: Any = importlib.import_module("cat_seg.third_party.clip")
        clip.load = lambda *_, **__: (make_clip(clip), None)
        # Embeddings that its constructor makes and nobody reads, one class at a time.
        predictor.class_embeddings = lambda self, names, *_: torch.zeros(1, len(names), 1)
        return registry[architecture](config)


def clip_shapes() -> dict[str, torch.Tensor]:
    """Empty tensors, from whose shapes the published `build_model` reads CLIP ViT-B/16's sizes.

    Their values come later from the weights.
    """
    shapes: dict[str, tuple[int, ...]] = {
        "visual.proj": (768, 512),
        "visual.conv1.weight": (768, 3, 16, 16),
        "visual.positional_embedding": (197, 768),
        "text_projection": (512, 512),
        "positional_embedding": (77, 512),
        "token_embedding.weight": (49408, 512),
        "ln_final.weight": (512,),
    }
    for layer in range(12):
        shapes[f"visual.transformer.resblocks.{layer}.attn.in_proj_weight"] = (2304, 768)
        shapes[f"transformer.resblocks.{layer}.ln_1.weight"] = (512,)
    counts = {name: torch.tensor(0) for name in ("input_resolution", "context_length", "vocab_size")}
    return {name: torch.zeros(shape) for name, shape in shapes.items()} | counts


@torch.no_grad()
def fill(model: nn.Module) -> None:
    """Random weights of plausible size, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.copy_(_scaled(name, noise))


def _scaled(name: str, noise: torch.Tensor) -> torch.Tensor:
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "attn_q_proj_oft_layer_R":  # [block, block, slots, text and image blocks]: the image's begin as identity
        base = torch.zeros_like(noise)
        base[..., 4:] = torch.eye(noise.shape[0])[:, :, None, None]
        return base + 0.02 * noise
    if "oft_relation" in name:
        return torch.eye(noise.shape[0]) + 0.02 * noise
    if leaf == "logit_scale":
        return torch.full_like(noise, math.log(100.0))
    if "embedding" in name or "padding" in name:
        return 0.05 * noise
    if noise.ndim == 1:
        return 1.0 + 0.1 * noise if leaf == "weight" else 0.02 * noise
    transposed = leaf in ("proj", "text_projection") or "upsample" in name or ".up." in name
    return noise / math.sqrt(noise.shape[0] if transposed else math.prod(noise.shape[1:]))


def load(model: nn.Module, path: str) -> None:
    """Reads the checkpoint's tensors into the model. Raises ValueError if one of its parameters is not among them."""
    found = torch.load(path, map_location="cpu", weights_only=True)
    missing, _ = model.load_state_dict(found.get("model", found), strict=False)
    lacking = set(missing) & {name for name, _ in model.named_parameters()}
    if lacking:
        raise ValueError(f"{path} has no weights for {len(lacking)} parameters of the program, such as {min(lacking)}")


# ------------------------------------------------------------------------------------------ the work

Call = Callable[[int], Any]


def _training(model: nn.Module, job: Job) -> Call:
    model.train()

    def call(index: int) -> Any:
        images, labels = training_batch(job, index)
        batch = [
            {"image": torch.from_numpy(image).permute(2, 0, 1).float(), "sem_seg": torch.from_numpy(label)}
            for image, label in zip(images, labels, strict=True)
        ]
        for parameter in model.parameters():
            parameter.grad = None
        loss = sum(model(batch).values())
        loss.backward()
        return loss

    return call


def _inference(model: nn.Module, job: Job) -> Call:
    model.eval().requires_grad_(False)

    @torch.no_grad()
    def call(index: int) -> Any:
        height, width = job.image
        image = torch.from_numpy(seen(job, index).copy()).permute(2, 0, 1).float()
        result = model([{"image": image, "height": height, "width": width}])[0]["sem_seg"]
        return result, result.argmax(0)

    return call


def _answer(model: nn.Module, job: Job, call: Call) -> dict[str, np.ndarray]:
    """The result that the other program must also find."""
    if job.work == "training":
        loss = call(0)
        squares = [(p.grad.double() ** 2).sum() for p in model.parameters() if p.grad is not None]
        return {"loss": np.asarray(loss.item()), "gradient_norm": np.asarray(float(sum(squares)) ** 0.5)}
    return jobs.probabilities_and_labels(*(tensor.cpu().numpy() for tensor in call(0)))


@torch.no_grad()
def read_words(model: Any) -> None:
    """Lets the program tokenise its class names; in evaluation it also keeps their embeddings."""
    predictor = model.sem_seg_head.predictor
    predictor.get_text_embeds(predictor.class_texts, predictor.prompt_templates, predictor.clip_model)


def compile_whole(model: nn.Module, job: Job, call: Call) -> float:
    """Puts the whole program under `torch.compile`, which takes what it can; returns the seconds that this took.

    Two calls are needed: numbers that differ from call to call, such as that of labelled pixels, are fixed in what the
    first one compiles. In inference on a CPU weights are frozen, which is how inductor is fastest: whatever depends on
    them alone, such as the rotated weights, is computed once, and the rest is laid out for the processor's library.
    """
    started = time.perf_counter()
    read_words(model)  # text, which no compiler takes
    if job.work != "training" and job.device == "cpu":
        inductor: Any = importlib.import_module("torch._inductor.config")
        inductor.freezing = True
    model.compile(mode=job.mode)
    for index in range(2):
        call(index)
    return time.perf_counter() - started


def main() -> None:
    """Does the job, writes seconds, peak memory and FLOPs."""
    job, output = Job.read(sys.argv[1]), pathlib.Path(sys.argv[2])
    torch.set_num_threads(job.threads)
    model = build(job)
    if job.work == "weights":
        fill(model)
        torch.save({"model": model.state_dict()}, job.weights)
        output.write_text("{}")
        return
    load(model, job.weights)
    if job.runner == "export":
        read_words(model.eval())
        onnx_export.export(model, job)
        output.write_text("{}")
        return
    call = (_training if job.work == "training" else _inference)(model, job)
    compile_seconds = compile_whole(model, job, call) if job.runner == "compiled" else None
    wait = torch.cuda.synchronize if job.device == "cuda" else lambda: None
    counter: Any = FlopCounterMode(display=False) if job.count_flops else contextlib.nullcontext()
    call(0) if job.work != "training" and job.count_flops else None  # the words are encoded once, and not counted
    with counter:
        call(1)
    record = jobs.timed(call, job.repetitions, wait) | {
        "device_bytes": torch.cuda.max_memory_allocated() if job.device == "cuda" else None,
        "flops": counter.get_total_flops() if job.count_flops else None,
        "compile_seconds": compile_seconds,
        "versions": {"torch": torch.__version__},
    }
    jobs.reply(job, output, record, lambda: _answer(model, job, call))


if __name__ == "__main__":
    main()
