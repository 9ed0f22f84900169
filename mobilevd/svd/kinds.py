"""Which kind of layer a module of SVD's network is, by its name: what costs and times are split by.

**Source** diffusers' names of the UNet's modules. **Keeps** every module has one kind
(``tests/evaluation/test_cost.py``).
"""

KINDS = (
    "spatial convolution",
    "spatial attention",
    "temporal ResBlocks",
    "temporal attention",
    "feed-forward",
    "cross-attention",
    "resampling",
    "embeddings",
)
(SPATIAL_CONV, SPATIAL_ATTENTION, TEMPORAL_RES, TEMPORAL_ATTENTION, FEED_FORWARD, CROSS, RESAMPLING, EMBEDDINGS) = KINDS


def kind(name: str) -> str:
    """Which of ``KINDS`` the module or parameter ``name`` of a VideoUNet belongs to."""
    parts = set(name.split("."))
    if "resnets" in parts:
        return TEMPORAL_RES if parts & {"temporal_res_block", "time_mixer"} else SPATIAL_CONV
    if parts & {"downsamplers", "upsamplers"}:
        return RESAMPLING
    if "attentions" not in parts:
        return SPATIAL_CONV if parts & {"conv_in", "conv_norm_out", "conv_out"} else EMBEDDINGS
    if parts & {"attn2", "norm2"}:
        return CROSS
    if parts & {"ff", "ff_in", "norm_in", "norm3"}:
        return FEED_FORWARD
    temporal = parts & {"temporal_transformer_blocks", "time_pos_embed", "time_mixer"}
    return TEMPORAL_ATTENTION if temporal else SPATIAL_ATTENTION


def block(name: str) -> str:
    """``down_blocks.0.resnets.0.conv1`` → ``down_blocks.0``; ``conv_in`` is its own block."""
    parts = name.split(".")
    return ".".join(parts[:2]) if len(parts) > 1 and parts[1].isdigit() else parts[0]
