"""Small stand-ins for packages that the published programs import and that their model hardly needs.

Detectron2 cannot be installed by pip. The model uses only a registry, a configuration object and two functions on
tensors of it, and one MLP of timm. Packages that are installed are used, except Detectron2; those that are missing are
replaced here. `cat_seg` itself becomes a bare package whose modules come from the folder of the published program, so
that its data sets and trainers, which need far more packages, are never imported.
"""

import functools
import importlib.machinery
import importlib.util
import pathlib
import sys
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

BARE_PACKAGES = ("cat_seg", "cat_seg.modeling", "cat_seg.modeling.heads", "cat_seg.modeling.transformer")


class Config(dict[str, Any]):
    """Nested dictionary with attributes; a section that is not there yet appears when it is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.setdefault(name, Config())

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def update_from(self, values: dict[str, Any]) -> None:
        """Puts nested plain values in."""
        for name, value in values.items():
            if isinstance(value, dict):
                getattr(self, name).update_from(value)
            else:
                self[name] = value


class Registry(dict[str, Any]):
    """Classes by name."""

    def register(self) -> Callable[[type], type]:
        """Decorator that adds a class."""

        def add(cls: type) -> type:
            self[cls.__name__] = cls
            return cls

        return add


def configurable(init: Callable[..., None]) -> Callable[..., None]:
    """A constructor that, given a Config, takes its arguments from the class's `from_config`."""

    @functools.wraps(init)
    def wrapped(self: Any, *args: Any, **options: Any) -> None:
        if args and isinstance(args[0], Config):
            options, args = type(self).from_config(*args, **options), ()
        init(self, *args, **options)

    return wrapped


class Images:
    """A batch of images and their sizes. All images have the same size here, so that nothing is padded."""

    def __init__(self, tensor: torch.Tensor):
        self.tensor = tensor
        self.image_sizes = [tuple(tensor.shape[-2:])] * len(tensor)

    @classmethod
    def from_tensors(cls, tensors: list[torch.Tensor], size_divisibility: int = 0) -> "Images":
        """Images `[c, h, w]` of equal sizes to a batch."""
        return cls(torch.stack(tensors))


def sem_seg_postprocess(result: torch.Tensor, size: tuple[int, int], height: int, width: int) -> torch.Tensor:
    """`[t, h, w]`, cut to `size`, brought to (height, width) bilinearly."""
    result = result[:, : size[0], : size[1]][None]
    return nn.functional.interpolate(result, size=(height, width), mode="bilinear", align_corners=False)[0]


class Mlp(nn.Module):
    """Two linear maps with an activation between them; names as in timm, whose checkpoints these are."""

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int | None = None,
        act_layer: type[nn.Module] = nn.GELU,
        drop: float = 0.0,
    ):
        super().__init__()
        self.fc1, self.act = nn.Linear(in_features, hidden_features), act_layer()
        self.fc2, self.drop = nn.Linear(hidden_features, out_features or in_features), nn.Dropout(drop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[..., c]` to `[..., c]`."""
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


def _pair(value: Any) -> tuple[Any, Any]:
    return value if isinstance(value, tuple) else (value, value)


def _unused(*_: Any, **__: Any) -> Any:
    raise NotImplementedError("the measured work does not use this")


def _modules() -> dict[str, dict[str, Any]]:
    """Module name -> the names and objects that the published model takes from it."""
    architectures, heads, backbones = Registry(), Registry(), Registry()
    unused = type("Unused", (nn.Module,), {"__init__": _unused})
    build_head = lambda config, shape: heads[config.MODEL.SEM_SEG_HEAD.NAME](config, shape)
    return {
        "detectron2": {},
        "detectron2.config": {"CfgNode": Config, "configurable": configurable},
        "detectron2.data": {"MetadataCatalog": None},
        "detectron2.layers": {"Conv2d": nn.Conv2d, "ShapeSpec": unused, "get_norm": _unused},
        "detectron2.modeling": {
            "META_ARCH_REGISTRY": architectures,
            "SEM_SEG_HEADS_REGISTRY": heads,
            "BACKBONE_REGISTRY": backbones,
            "build_backbone": _unused,
            "build_sem_seg_head": build_head,
            "Backbone": nn.Module,
            "ShapeSpec": unused,
        },
        "detectron2.modeling.backbone": {"Backbone": nn.Module},
        "detectron2.modeling.postprocessing": {"sem_seg_postprocess": sem_seg_postprocess},
        "detectron2.structures": {"ImageList": Images},
        "detectron2.utils": {},
        "detectron2.utils.memory": {"_ignore_torch_cuda_oom": _unused},
        "fvcore": {},
        "fvcore.nn": {},
        "fvcore.nn.weight_init": {},
        "timm": {},
        "timm.layers": {
            "Mlp": Mlp,
            "PatchEmbed": unused,
            "DropPath": unused,
            "to_2tuple": _pair,
            "to_ntuple": _unused,
            "trunc_normal_": nn.init.trunc_normal_,
            "_assert": torch._assert,
        },
        "torchvision": {},
        "torchvision.transforms": dict.fromkeys(["Compose", "Resize", "CenterCrop", "ToTensor", "Normalize"], _unused),
        "open_clip": {},
        "clip": {},
        "clip.model": {},
    }


class Anything(types.ModuleType):
    """A module that has whatever is asked of it: the published trainer imports much that is not used here."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


TRAINER_MODULES = (
    *("detectron2.checkpoint", "detectron2.engine", "detectron2.evaluation", "detectron2.projects"),
    *("detectron2.projects.deeplab", "detectron2.solver", "detectron2.solver.build", "detectron2.utils.comm"),
    *("detectron2.utils.file_io", "detectron2.utils.logger", "pycocotools", "pycocotools.mask"),
)


def trainer(folder: pathlib.Path) -> Any:
    """The published program's `Trainer`, for its optimiser. `install` comes first."""
    for name in TRAINER_MODULES:
        put(name, {}, Anything)
    for name in ("detectron2.config", "detectron2.data", "cat_seg"):
        sys.modules[name].__class__ = Anything
    spec = importlib.util.spec_from_file_location("train_net", folder / "train_net.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError(f"{folder} holds no train_net.py, which makes the published optimiser")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Trainer


def install(folder: pathlib.Path) -> Registry:
    """Makes the published program's modules importable; returns the registry that its models enter.

    Raises FileNotFoundError if the folder does not hold it.
    """
    if not (folder / "cat_seg" / "cat_seg_model.py").is_file():
        raise FileNotFoundError(
            f"{folder} holds no cat_seg/cat_seg_model.py; pass the folder into which CAT-Seg or AHS-Seg was unpacked"
        )
    modules = _modules()
    missing = {name for name in {name.partition(".")[0] for name in modules} if not installed(name)}
    missing.add("detectron2")  # replaced also where it is installed: its registry refuses a second registration
    for name, contents in modules.items():
        if name.partition(".")[0] in missing:
            put(name, contents)
    for name in BARE_PACKAGES:
        package = put(name, {})
        package.__path__ = [str(folder.joinpath(*name.split(".")))]
    return modules["detectron2.modeling"]["META_ARCH_REGISTRY"]


def installed(package: str) -> bool:
    """Whether a package is there, other than as a stand-in."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.loader is not None  # a stand-in has no loader


def put(name: str, contents: dict[str, Any], kind: type[types.ModuleType] = types.ModuleType) -> types.ModuleType:
    """Makes a module with these contents importable."""
    module = kind(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
    module.__dict__.update(contents)
    module.__path__ = []  # submodules may be asked for
    sys.modules[name] = module
    parent, _, leaf = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], leaf, module)
    return module
