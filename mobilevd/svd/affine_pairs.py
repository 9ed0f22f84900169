"""Where two affine maps follow each other in a diffusers network: q–k and v–o of self-attentions, conv1 → conv2.

**Source** diffusers' Attention and ResBlocks, as SVD, UNet2DConditionModel and UNetMotionModel have them.
**Keeps** what cannot be rewritten is refused by its name, never skipped (``tests/svd/test_affine_pairs.py``).
"""

from collections.abc import Callable

from torch import nn

from mobilevd.errors import SurgeryError
from mobilevd.svd.upstream import Attention, AttnProcessor, AttnProcessor2_0, ResnetBlock2D, TemporalResnetBlock

WHERE = ("spatial", "temporal", "all")
TEMPORAL = (".temporal_transformer_blocks.", ".motion_modules.", ".temp_attentions.", ".transformer_in.")
Reasons = tuple[tuple[str, Callable[[nn.Module], bool]], ...]

UNLIKE_ATTENTION: Reasons = (
    ("is narrowed already, or of a kind of its own", lambda a: type(a) is not Attention),
    ("has added key and value projections", lambda a: a.add_k_proj is not None),
    ("has a group norm inside", lambda a: a.group_norm is not None or a.spatial_norm is not None),
    ("has a residual connection inside", lambda a: a.residual_connection),
    ("has a rescale factor", lambda a: a.rescale_output_factor != 1.0),
    ("normalises queries or keys", lambda a: a.norm_q is not None or a.norm_k is not None),
    ("normalises its context", lambda a: a.norm_cross is not None),
    ("is causal", lambda a: a.is_causal),
    ("has no projection of its output", lambda a: a.to_out is None),
    ("has projections that are fused or not plain", lambda a: a.fused_projections or not _plain(a)),
    ("shares key heads between queries", lambda a: a.to_k.out_features != a.to_q.out_features),
    ("drops activations out", lambda a: a.to_out[1].p > 0.0),
    ("has a processor of its own", lambda a: type(a.processor) not in (AttnProcessor, AttnProcessor2_0)),
)
UNLIKE_RES_BLOCK: Reasons = (
    ("is narrowed already, or of a kind of its own", lambda b: type(b) not in (ResnetBlock2D, TemporalResnetBlock)),
    ("scales and shifts by the time embedding", lambda b: getattr(b, "time_embedding_norm", "default") != "default"),
    ("has convolutions that are not plain", lambda b: not all(_plain_convolution(c) for c in (b.conv1, b.conv2))),
    ("has a norm that is not a plain GroupNorm", lambda b: type(b.norm2) is not nn.GroupNorm or not b.norm2.affine),
)


def self_attentions(network: nn.Module, where: str) -> dict[str, nn.Module]:
    """Name → self-attention, of any class with ``to_q``, in the network's order, at the place ``where``.

    Errors: SurgeryError for an unknown place, or when there is none.
    """
    return _found(network, where, lambda m: hasattr(m, "to_q") and not _is_cross(m), is_temporal, "self-attention")


def res_blocks(network: nn.Module, where: str) -> dict[str, nn.Module]:
    """Name → ResBlock, of any class with ``conv1``, ``norm2`` and ``conv2``. Errors: as ``self_attentions``."""
    parts = ("conv1", "norm2", "conv2")
    is_block, names = lambda m: all(hasattr(m, p) for p in parts), {id(m): n for n, m in network.named_modules()}
    temporal = {names[id(m)] for m in network.modules() if is_block(m) and isinstance(m.conv1, nn.Conv3d)}
    return _found(network, where, is_block, temporal.__contains__, "ResBlock")


def refuse(modules: dict[str, nn.Module], unlike: Reasons, what: str = "Funnels cannot go there") -> None:
    """Errors: SurgeryError, headed ``what``, naming the first module that cannot be rewritten, and why."""
    for name, module in modules.items():
        if reason := next((reason for reason, holds in unlike if holds(module)), None):
            allowed = "plain layers of diffusers, not narrowed yet"
            raise SurgeryError(what, got=f"{name} {reason}", allowed=allowed, where=name)


def is_temporal(name: str) -> bool:
    """Whether the attention of that name looks along frames."""
    return any(part in f".{name}" for part in TEMPORAL)


def _found(
    network: nn.Module, where: str, kind: Callable[[nn.Module], bool], temporal: Callable[[str], bool], label: str
) -> dict[str, nn.Module]:
    if where not in WHERE:
        raise SurgeryError("Unknown place for funnels", got=where, allowed=", ".join(WHERE), where="funnel.where")
    chosen = lambda name: where == "all" or temporal(name) == (where == "temporal")  # noqa: E731
    if not (found := {name: m for name, m in network.named_modules() if kind(m) and chosen(name)}):
        raise SurgeryError("Funnels cannot go there", got=f"no {label}", allowed=f"a {where} {label}", where=where)
    return found


def _is_cross(module: nn.Module) -> bool:
    return getattr(module, "is_cross_attention", False)


def _plain(attention: nn.Module) -> bool:
    projections = (attention.to_q, attention.to_k, attention.to_v, attention.to_out[0])
    return all(type(projection) is nn.Linear for projection in projections)


def _plain_convolution(conv: nn.Module) -> bool:
    return type(conv) in (nn.Conv2d, nn.Conv3d) and conv.groups == 1 and conv.bias is not None
