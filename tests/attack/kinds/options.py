"""Every option of every command, as the functions of the commands have them, with values that mean nothing.

What takes long behind the options (training, servers, exports) is left out: what they are checked for is not.
"""

import contextlib
import dataclasses
import inspect
import pathlib
import typing
from collections.abc import Iterator
from typing import Any
from unittest import mock

from absl import flags
from PIL import Image
from typer.models import ArgumentInfo

from ahs_seg_jax import config, main
from ahs_seg_jax.ahead_of_time import memory as memory_report
from ahs_seg_jax.cli import app, demo, doctor, evaluate, scaling, timing, train
from ahs_seg_jax.export import programs
from tests.attack import mutations
from tests.attack.attacking import Kind, Silent
from tests.attack.kinds.commands import NUMBERS, WORDS, is_clear, tried
from tests.support import ROOT

NO_NUMBERS = ("nan", "inf", "-inf")
NAMES = ("model", "allowed_host", "api_key")  # parameters in which these may be the name of something
TEXTS = (*WORDS, "grass; sand", "1,2,3", "\u202e", "a" * 3000, "file:///etc/passwd", "http://127.0.0.1:9/x")
GOOD = {  # some that mean something
    "--classes": ("grass; sand", "grass; sand, beach; sky"),
    "--model": ("tiny", "tiny", "none.pt"),
    "--annotations": ("coco", "coco,yolo", "coco,coco", "geojson", "cvat,x"),
    "--bands": ("3,2,1", "1", "1,1,1", "red,green,blue", "0,0,0", "-1,2,3", "9,9,9"),
    "--rescale": ("0,3000", "2%,98%", "1,1", "98%,2%", "nan,1", "0,inf", "0", "-1%,101%"),
    "--shard": ("1/2", "2/2", "0/1", "3/2", "1/0", "1/1/1", "-1/2", "1/999999999"),
    "--unknown": ("none", "0.3", "wall; sky", "grass"),
    "--windows": ("native",),
    "--keep": ("model", "all", "3"),
    "--host": ("127.0.0.1", "0.0.0.0", "::1", "nowhere.invalid", "300.1.1.1"),
    "--allowed-host": ("example.org", "*", "a b", "http://x", "example.org:80"),
    "--api-key": ("short", "x" * 20, "\u00e9" * 20, "a b" * 10),
    "--config": tuple(f"{ROOT}/configs{end}" for end in ("/tiny.py", "/tiny.py:smoke", "/tiny.py:x", "")),
    "--benchmark": ("voc_20", "x"),
    "--topology": ("", "v5e:2x2", "x"),
}
PLACES = ("output", "destination", "json_file", "workdir", "dataset", "root", "to")  # that a command may write to
FIELDS = ("train.steps", "train.learning_rate", "model.image.layers", "losses.boundary", "seed", "nothing", "", "data")


@dataclasses.dataclass(frozen=True)
class Parameter:
    """An argument (without `names`), a flag (of bool), or an option with a value."""

    field: str
    names: tuple[str, ...]
    kind: Any  # bool, int, float, str or the texts of a choice
    required: bool = False


def parameters(command: Any) -> list[Parameter]:
    """What a command takes, by the annotations of its function."""
    found, signature = [], inspect.signature(command)
    for field, hint in typing.get_type_hints(command, include_extras=True).items():
        if field in ("return", "context"):
            continue
        kind, info = typing.get_args(hint)[:2]
        parts = [part for part in typing.get_args(kind) if part is not type(None)] or [kind]
        kind = typing.get_args(parts[0])[0] if typing.get_origin(parts[0]) is list else parts[0]
        if texts := tuple(part for part in (*parts, *typing.get_args(kind)) if isinstance(part, str)):
            kind = texts
        own = info.default if isinstance(info.default, str) else ""  # where Annotated puts the first of the names
        names = tuple(info.param_decls or [own or f"--{field.replace('_', '-')}"])
        argument, required = (
            isinstance(info, ArgumentInfo),
            signature.parameters[field].default is inspect.Parameter.empty,
        )
        found.append(Parameter(field, () if argument else names, kind, required))
    return found


class Attack(Kind):
    mistakes = (ValueError,)

    def __init__(self, folder: pathlib.Path):
        super().__init__(folder)
        Image.radial_gradient("L").resize((40, 32)).convert("RGB").save(folder / "a.png")
        (folder / "text.png").write_text("no image")
        (folder / "empty").mkdir()
        commands = [*app.COMMANDS, *app.WITH_FLAGS]
        self._commands = {command.__name__: parameters(command) for command in commands}
        self._commands |= {f"data {command.__name__}": parameters(command) for command in app.OF_DATA}

    def run(self, rng):
        name = mutations.pick(rng, tuple(self._commands))
        given, values = name.split(), []
        for parameter in self._commands[name]:
            for value in self._values(parameter, rng):
                values += [value] * (parameter.field not in NAMES)
                given += [mutations.pick(rng, parameter.names), value] if parameter.names else [value]
            if parameter.kind is bool and rng.random() < 0.2:
                given.append(mutations.pick(rng, parameter.names))
        if name in ("train", "evaluate", "memory") and rng.random() < 0.5:
            field, value = mutations.pick(rng, FIELDS), mutations.pick(rng, (*NUMBERS, *TEXTS))
            given += [f"--config.{field}={value}", "--workdir", str(self.folder / "run")]
        given = [word.replace("\0", "") for word in given]  # no system hands a zero over
        with _nothing_long(self.folder):
            tried(given)
        if set(values) & set(NO_NUMBERS):
            raise Silent(f"{given}: no number was taken for one")

    def is_clear(self, said):
        return is_clear(said)

    def _values(self, parameter: Parameter, rng: Any) -> list[str]:
        """What to give of a parameter: mostly nothing of an option, and something of an argument."""
        if parameter.kind is bool or (parameter.names and rng.random() < (0.2 if parameter.required else 0.75)):
            return []
        if parameter.field in PLACES and not isinstance(parameter.kind, tuple):  # nothing is written elsewhere
            return [str(self.folder / mutations.pick(rng, ("out", "out", "a.png", "text.png/x", "new/x/y")))]
        if parameter.field == "images":
            images = ("a.png", "a.png", "text.png", "none.png", "*.png", "empty", "/dev/null", "a\u00e9.png")
            return [str(self.folder / mutations.pick(rng, images)) for _ in range(int(rng.integers(1, 3)))]
        if isinstance(parameter.kind, tuple):
            pool: tuple[str, ...] = (*parameter.kind, *NUMBERS[:2], "x", "")
        elif parameter.kind in (int, float):
            pool = NUMBERS
        else:
            pool = (*GOOD.get(parameter.names[0] if parameter.names else "", ()) * 3, *TEXTS, *NUMBERS)
        return [mutations.pick(rng, pool)]


def _only_parsed(mode: str, arguments: Any) -> None:
    """As `cli.train.hand_over`, up to the experiment."""
    values = main.define_flags(flags.FlagValues())
    try:
        rest = main.parse(["ahs-seg", f"--mode={mode}", *arguments], values)
        main.experiment_of(values, rest[1:])
    except main.USER_ERRORS as error:
        main.fail(error)


@contextlib.contextmanager
def _nothing_long(folder: pathlib.Path) -> Iterator[None]:
    """In this folder, without what begins behind the checks of the options, and without a hub."""
    from ahs_seg_jax.serve import run as server

    nothing = lambda *_, **__: None
    with contextlib.ExitStack() as stack, contextlib.chdir(folder):
        for place, name, stand_in in (
            *((train, "hand_over", _only_parsed), (evaluate, "hand_over", _only_parsed)),
            (memory_report, "report_for", lambda file, overrides, **_: config.load(file, overrides) and ""),
            *((server, "run", nothing), (server, "warm", nothing), (demo, "serve", nothing)),
            *((timing, "measure", lambda *_: ()), (programs, "programs", lambda *_, **__: {})),
            *((scaling, "run", nothing), (doctor, "_self_test", lambda: 0)),
        ):
            stack.enter_context(mock.patch.object(place, name, stand_in))
        variables = {"HF_ENDPOINT": "http://127.0.0.1:9", "JAX_PLATFORMS": "cpu"}
        stack.enter_context(mock.patch.dict("os.environ", variables))
        yield
