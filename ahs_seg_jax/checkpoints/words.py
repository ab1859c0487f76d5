"""The tokenizer.json that a model's words need: a file beside its weights, wherever these go."""

import dataclasses
import pathlib

from ahs_seg_jax.errors import CheckpointError
from ahs_seg_jax.models.architecture import ModelConfig
from ahs_seg_jax.storage import writing
from ahs_seg_jax.vocabulary.tokenizer import CLIP, TOKENIZER


def portable(config: ModelConfig) -> ModelConfig:
    """The configuration that is written beside the file: it names the file, not its place on this machine."""
    return config if config.text.tokenizer == CLIP else _with(config, TOKENIZER)


def copy(config: ModelConfig, folder: pathlib.Path) -> None:
    """Puts the tokenizer into a folder. With CLIP's, which the package holds, there is nothing to do.

    Raises CheckpointError if the file that the configuration names cannot be read, or another one lies there.
    """
    if config.text.tokenizer == CLIP:
        return
    target = folder / TOKENIZER
    try:
        content = pathlib.Path(config.text.tokenizer).read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"the model's words need the tokenizer {config.text.tokenizer}, which cannot be read ({error}); put it back"
        ) from error
    if not target.exists():
        writing.write_bytes(target, content)
    elif target.read_bytes() != content:
        raise CheckpointError(
            f"{target} is another tokenizer than {config.text.tokenizer}, which the model's words need; write into "
            "another folder"
        )


def found_beside(config: ModelConfig, folder: pathlib.Path, where: str) -> ModelConfig:
    """The inverse of `portable`. Raises CheckpointError if the file is not there."""
    if config.text.tokenizer != TOKENIZER:
        return config
    return _with(config, path_beside(folder, where))


def path_beside(folder: pathlib.Path, where: str) -> str:
    """The path of the tokenizer.json in a folder. Raises CheckpointError if there is none."""
    path = folder / TOKENIZER
    if not path.is_file():
        raise CheckpointError(f"the words of {where} are read by the {TOKENIZER} that belongs beside it; it is missing")
    return str(path.absolute())


def _with(config: ModelConfig, tokenizer: str) -> ModelConfig:
    return config.replace(text=dataclasses.replace(config.text, tokenizer=tokenizer))
