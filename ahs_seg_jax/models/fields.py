"""Nested dataclasses from plain mappings and back, with every misfit named by its path."""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

MOST = 2**31 - 1  # of whole numbers: what 32 bits count


def flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested dataclasses as (path, value), e.g. `("train.batch_size", 4)`."""
    for field in dataclasses.fields(value):
        child, path = getattr(value, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(child):
            yield from flatten(child, f"{path}.")
        else:
            yield path, child


def build(cls: type, values: Mapping[str, Any], path: str, problems: list[str], partial: bool = False) -> Any:
    """`cls` made from `values`; whatever does not fit is added to `problems` and its default taken instead.

    A field that is absent is a problem, unless `partial`.
    """
    hints = typing.get_type_hints(cls)
    fields = {field.name for field in dataclasses.fields(cls)}
    for name in sorted(set(values) - fields):
        seen = f"{path}{name} = {values[name]!r}"
        problems.append(unknown(seen, f"{path}{name}", [f"{path}{known}" for known in sorted(fields)]))
    built = {}
    for name in sorted(fields):
        if name not in values:
            problems += [] if partial else [f"{path}{name} is missing"]
        elif dataclasses.is_dataclass(hints[name]):
            if isinstance(values[name], Mapping):
                built[name] = build(hints[name], values[name], f"{path}{name}.", problems, partial)
            else:
                problems.append(f"{path}{name} is {values[name]!r}; it must be a group of fields")
        else:
            try:
                built[name] = _convert(values[name], hints[name])
            except TypeError:
                wanted = _type_name(hints[name])
                seen = type(values[name]).__name__
                problems.append(f"{path}{name} is {values[name]!r} ({seen}); it must be of type {wanted}")
    return cls(**built)


def number_problems(leaves: Iterable[tuple[str, Any]], negative: Collection[str] = ()) -> list[str]:
    """A sentence for each number that no field can mean: NaN, infinite, negative, or beyond MOST.

    `leaves` are those of `flatten`; the fields whose paths are in `negative` may be negative.
    """
    found = []
    for path, leaf in leaves:
        for number in leaf if isinstance(leaf, tuple) else (leaf,):
            if isinstance(number, float) and not math.isfinite(number):
                found.append(f"{path} is {leaf}; it must be a finite number")
            elif isinstance(number, int | float) and number < 0 and path not in negative:
                found.append(f"{path} is {leaf}; it must be 0 or positive")
            elif isinstance(number, int) and abs(number) > MOST:
                found.append(f"{path} is {leaf}; whole numbers may be at most {MOST}")
    return found


def unknown(seen: str, path: str, valid: list[str]) -> str:
    """A sentence about a field that does not exist, with the nearest of the valid ones."""
    near = difflib.get_close_matches(path, valid, n=1, cutoff=0.6)
    remedy = f"did you mean {near[0]}?" if near else f"valid fields: {', '.join(valid)}"
    return f"{seen} is not a field of the configuration; {remedy}"


def _convert(value: Any, hint: Any) -> Any:
    """`value` as the annotated type, loosening only whole numbers for floats and lists for tuples; else TypeError."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        for option in typing.get_args(hint):
            try:
                return _convert(value, option)
            except TypeError:
                continue
        raise TypeError
    if typing.get_origin(hint) is tuple:
        items = typing.get_args(hint)
        if not isinstance(value, tuple | list):
            raise TypeError
        if len(items) == 2 and items[1] is Ellipsis:
            return tuple(_convert(item, items[0]) for item in value)
        if len(items) != len(value):
            raise TypeError
        return tuple(_convert(item, kind) for item, kind in zip(value, items, strict=True))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise TypeError
    return value


def _type_name(hint: Any) -> str:
    return str(hint) if typing.get_origin(hint) else hint.__name__
