"""The card of a published model, made of what its manifest and its results say; nothing in it is written by hand."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ahs_seg_jax.checkpoints.manifest import Pretrained
from ahs_seg_jax.checkpoints.zoo import table as zoo
from ahs_seg_jax.models import parameters

METHODS = (
    "Cho et al., CAT-Seg: Cost Aggregation for Open-Vocabulary Semantic Segmentation, CVPR 2024, arXiv:2303.11797",
    "AHS-Seg, github.com/ZhaoYi-10-13/AHS-Seg",
)


def text(name: str, pretrained: Pretrained, results: Sequence[Mapping[str, Any]], licence: str = "") -> str:
    """README.md of the repository `name`. `results` are contents of results files."""
    start = _start(pretrained)
    parts = [
        _front_matter(licence, start),
        f"# {name.partition('/')[2]}\n",
        _what_it_is(pretrained),
        _training(pretrained, start),
        _scores(pretrained, results),
        _use(name, pretrained),
        _sources(licence, start),
    ]
    return "\n".join(part for part in parts if part)


def _start(pretrained: Pretrained) -> zoo.Entry | str:
    """What the training started from: a model of the zoo, else the name that the run was given; empty if not known."""
    config = (pretrained.training or {}).get("config", {})
    named = config.get("init", "") or pretrained.manifest.get("zoo", {}).get("name", "")
    entries = zoo.table()
    by_repository = {entry.hub_name.place: entry for entry in entries.values() if entry.kind == "model"}
    return entries.get(named) or by_repository.get(named) or named


def _front_matter(licence: str, start: zoo.Entry | str) -> str:
    lines = ["library_name: ahs_seg_jax", "pipeline_tag: image-segmentation"]
    lines += [f"license: {json.dumps(licence)}"] if licence else []
    lines += [f"base_model: {start.repo}"] if isinstance(start, zoo.Entry) and start.kind == "model" else []
    lines += ["tags:", "- open-vocabulary", "- semantic-segmentation", "- jax", "- flax"]
    return "\n".join(["---", *lines, "---", ""])


def _what_it_is(pretrained: Pretrained) -> str:
    config = pretrained.config
    count = sum(leaf.size for _, leaf in parameters.flatten(pretrained.params))
    parts = {"HA-HEM": config.adaptation == "ha_hem", "rotations": config.adaptation == "orthogonal"}
    parts |= {"MH-FPN": config.mh_fpn, "DC-HSP": config.dc_hsp}
    components = ", ".join(part for part, there in parts.items() if there) if pretrained.is_complete else ""
    kind = "Open-vocabulary semantic segmentation" if pretrained.is_complete else "CLIP's two towers"
    return (
        f"{kind} for `ahs_seg_jax`: "
        f"{config.image.layers} blocks of width {config.image.width}, patches of {config.image.patch_size} pixels, "
        f"{count:,} parameters{f', with {components}' if components else ''}.\n"
    )


def _training(pretrained: Pretrained, start: zoo.Entry | str) -> str:
    meta = pretrained.training
    if not meta:
        return ""
    config, names = meta.get("config", {}), pretrained.trained_names
    train, data = config.get("train", {}), config.get("data", {})
    began = f"`{start.name}` ({start.title})" if isinstance(start, zoo.Entry) else f"`{start}`" if start else "scratch"
    rows = {
        "data": data.get("name"),
        "classes": len(names) or None,
        "started from": began,
        "steps": meta.get("step"),
        "images a step": train.get("batch_size"),
        "what learnt inside CLIP": train.get("finetune"),
        "prompts": ", ".join(f"`{template}`" for template in pretrained.templates[:3])
        + (f" and {len(pretrained.templates) - 3} more" if len(pretrained.templates) > 3 else ""),
    }
    lines = [f"| {key} | {value} |" for key, value in rows.items() if value is not None]
    return "\n".join(["## Training\n", "| | |", "| --- | --- |", *lines, ""])


def _scores(pretrained: Pretrained, results: Sequence[Mapping[str, Any]]) -> str:
    if not results:
        return "## Scores\n\nNone were measured.\n"
    step = (pretrained.training or {}).get("step")
    lines = [_row(result, step) for result in results]
    head = "| benchmark | protocol | mIoU | seen | unseen | fwIoU | images | remarks |"
    told = (
        "In percent; the files in `results/` hold the score of every class, and what was scored with which versions.\n"
    )
    return "\n".join(["## Scores\n", told, head, f"|{' --- |' * 8}", *lines, ""])


def _row(result: Mapping[str, Any], step: int | None) -> str:
    scores, data = result["scores"], result.get("data", {})
    shown = [_percent(scores.get(key)) for key in ("mIoU", "mIoU_seen", "mIoU_unseen", "fwIoU")]
    of_step = result.get("checkpoint", {}).get("step")
    remarks = [f"of step {of_step}"] if of_step != step and of_step is not None else []
    remarks += ["a fixed subset"] if result.get("quick") else []
    remarks += ["incomplete"] if result.get("incomplete") or data.get("problems") else []
    name = f"{result.get('benchmark', '')} {result.get('split', '')}".strip()
    cells = [name, result["protocol"], *shown, str(data.get("images", "")), ", ".join(remarks)]
    return f"| {' | '.join(cells)} |"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _use(name: str, pretrained: Pretrained) -> str:
    if not pretrained.is_complete:
        return f"## Use\n\n```\nahs-seg train --config=configs/vitb.py --config.init={name}\n```\n"
    example = ", ".join(json.dumps(n.split(", ")[0]) for n in pretrained.trained_names[:2]) or '"cat", "sofa"'
    return f"""## Use

```python
from ahs_seg_jax import Segmenter

segmenter = Segmenter.from_pretrained("{name}")
result = segmenter("photo.jpg", [{example}])
result.overlay().save("overlay.png")
```
```
ahs-seg segment photo.jpg --classes "cat; sofa" --model {name}
```
"""


def _sources(licence: str, start: zoo.Entry | str) -> str:
    lines = ["## Licence and sources\n"]
    lines += [f"Licence: {licence}." if licence else "Its licence is not stated."]
    cited = list(METHODS)
    if isinstance(start, zoo.Entry):
        lines += [f"It contains weights of {start.title} ({start.hub_name.place}), whose licence is: {start.licence}."]
        cited = list(dict.fromkeys([*cited, start.citation]))
    return "\n".join([*lines, "", *(f"- {citation}" for citation in cited if citation), ""])
