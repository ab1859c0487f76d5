"""The part of the AHS-Seg layout that CAT-Seg's does not have: rotations, HA-HEM, MH-FPN and DC-HSP."""

from collections.abc import Iterator

from ahs_seg_jax.checkpoints.formats.entry import Entry, conv, linear, norm
from ahs_seg_jax.models.architecture import ModelConfig

ROTATION = "attn_q_proj_oft_"
MODULATOR = "energy_modulator."  # in no published file; the parameters' names are those of the reference's class
PYRAMID = "ms_fpn."
PROJECTION = "class_projection."
COMPLEXITY_WIDTHS = (256, 128)
# The reference defines these and no formula uses them: images are projected by the base alone.
UNUSED = (
    f"{PROJECTION}complexity_estimator.multi_scale.",
    f"{PROJECTION}image_proj.delta_",
    f"{PROJECTION}image_proj.complexity_scale",
)


def components(clip_prefix: str, config: ModelConfig) -> Iterator[Entry]:
    """Entries of whatever `config` switches on. `clip_prefix` is what the tower's names start with."""
    if config.adaptation != "none":
        yield from _rotations(clip_prefix, config)
    if config.adaptation == "ha_hem":
        for theirs, ours, layers in (("vision", "image", config.image.layers), ("text", "text", config.text.layers)):
            yield Entry(f"{MODULATOR}{theirs}.alpha_logits", f"clip/adaptation/alpha_{ours}", (layers,))
            yield Entry(f"{MODULATOR}{theirs}.beta_logit", f"clip/adaptation/beta_{ours}", ())
    if config.mh_fpn:
        yield from _pyramid(config)
    if config.dc_hsp:
        yield from _projection(config)


def _rotations(clip_prefix: str, config: ModelConfig) -> Iterator[Entry]:
    """The shared parameters, which the files repeat under every block of both towers."""
    blocks = [f"{clip_prefix}visual.transformer.resblocks.{layer}.{ROTATION}" for layer in range(config.image.layers)]
    blocks += [f"{clip_prefix}transformer.resblocks.{layer}.{ROTATION}" for layer in range(config.text.layers)]

    def shared(name: str, target: str, shape: tuple[int, ...], layer: int | None = None) -> Entry:
        first, *others = (block + name for block in blocks)
        return Entry(first, f"clip/adaptation/{target}", shape, layer=layer, aliases=tuple(others))

    side, count = config.block_size, config.text_blocks + config.image_blocks
    layers = max(config.image.layers, config.text.layers)
    yield shared("layer_R", "core", (side, side, 4 * layers, count))
    yield shared("relation_l_R.weight", "slot_mix", (4 * layers, 4 * layers))
    for layer in range(layers):
        yield shared(f"relation_m_R.{layer}.weight", "block_mix", (count, count), layer)


def _pyramid(config: ModelConfig) -> Iterator[Entry]:
    e, levels = config.embed_dim, len(config.mh_fpn_taps)
    for i in range(levels):
        source, target = f"{PYRAMID}level_processors.{i}.", f"mh_fpn/level_{i}/"
        yield Entry(f"{source}hs_align.radius", f"{target}radius", (1,), "scalar")
        yield from linear(f"{source}hs_align.proj.0", f"{target}align", config.image.width, e)
        yield from norm(f"{source}hs_align.proj.1", f"{target}align_norm", e)
        yield from conv(f"{source}enhance.0", f"{target}depthwise", 1, e, 3)
        yield from conv(f"{source}enhance.1", f"{target}pointwise", e, e, 1)
        yield from norm(f"{source}enhance.2", f"{target}norm", e)
    if config.mh_fpn_fusion == "weighted":
        yield Entry(f"{PYRAMID}fusion_weights", "mh_fpn/fusion_weights", (levels,))
    elif config.mh_fpn_fusion == "attention":
        yield from linear(f"{PYRAMID}fusion_attention.2", "mh_fpn/fusion", levels * e, levels)
    else:
        yield from conv(f"{PYRAMID}fusion_proj.0", "mh_fpn/fusion", levels * e, e, 1)
        yield from norm(f"{PYRAMID}fusion_proj.1", "mh_fpn/fusion_norm", e)
    yield from conv(f"{PYRAMID}output_proj.0", "mh_fpn/out_conv_1", e, e, 3)
    yield from norm(f"{PYRAMID}output_proj.1", "mh_fpn/out_norm", e)
    yield from conv(f"{PYRAMID}output_proj.3", "mh_fpn/out_conv_2", e, e, 1)


def _projection(config: ModelConfig) -> Iterator[Entry]:
    e, rank = config.embed_dim, config.dc_hsp_rank
    wide, narrow = COMPLEXITY_WIDTHS
    yield Entry(f"{PROJECTION}radius", "dc_hsp/radius", (1,), "scalar")
    net, target = f"{PROJECTION}complexity_estimator.complexity_net.", "dc_hsp/complexity/"
    yield from linear(f"{net}0", f"{target}dense_0", e, wide)
    yield from norm(f"{net}1", f"{target}norm_0", wide)
    yield from linear(f"{net}4", f"{target}dense_1", wide, narrow)
    yield from norm(f"{net}5", f"{target}norm_1", narrow)
    yield from linear(f"{net}7", f"{target}dense_2", narrow, 1)
    yield Entry(f"{PROJECTION}image_proj.base_proj.weight", "dc_hsp/image/base", (e, e), "linear")
    source, target = f"{PROJECTION}text_proj.", "dc_hsp/text/"
    yield Entry(f"{source}base_proj.weight", f"{target}base", (e, e), "linear")
    yield Entry(f"{source}complexity_scale", f"{target}scale", (1,), "scalar")
    yield Entry(f"{source}delta_A.weight", f"{target}a", (rank, e), "linear")
    yield Entry(f"{source}delta_B.weight", f"{target}b", (e, rank), "linear")
