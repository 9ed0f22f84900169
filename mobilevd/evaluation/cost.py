"""What one evaluation of a network costs, counted without computing anything; and the paper's ladder as data.

**Source** MobileVD (arXiv 2412.07583) Tables 1, 2: one UNet evaluation, batch 1, 14 frames; 2 FLOPs per multiply-add,
attention products included. **Keeps** every row near the paper's, 2 % (HD 7 %): ``tests/test_counts.py``.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mobilevd.errors import SurgeryError
from mobilevd.method import channel_funnel, cross_attention, temporal_multiscale, temporal_pruning
from mobilevd.svd import reference
from mobilevd.svd.kinds import KINDS, kind
from mobilevd.svd.unet import VideoUNet, temporal_blocks

SMALL, LARGE = (512, 256), (1024, 576)  # width x height in pixels
PIXELS_PER_LATENT = 8
Edit = Callable[[VideoUNet], object]
_WALKED: dict[tuple[tuple[int, ...], str], dict[str, int]] = {}


@dataclass(frozen=True)
class Cost:
    """One evaluation of a network by kind of layer: floating-point operations and parameters; the totals are sums."""

    flops: dict[str, int]
    params: dict[str, int]

    @property
    def tflops(self) -> float:
        """10^12 floating-point operations."""
        return sum(self.flops.values()) / 1e12

    @property
    def params_m(self) -> float:
        """10^6 parameters."""
        return sum(self.params.values()) / 1e6


@dataclass(frozen=True)
class Rung:
    """One row of the paper's Table 1: the edits so far, the clip's size, the paper's figures, the module that makes it.

    ``nfe``: evaluations per clip, 25 steps x 2 guidance passes until distilled; ``paper_fvd`` at 7 fps.
    """

    row: str
    edits: tuple[Edit, ...]
    size: tuple[int, int]
    nfe: int
    paper_tflops: float
    paper_fvd: int
    module: str

    @property
    def file(self) -> str:
        """Where the row is made."""
        return f"mobilevd/{self.module}.py"

    @property
    def test(self) -> str:
        """Where it is shown to be exact."""
        room, name = self.module.split("/")
        return f"tests/{room}/test_{name}.py"

    @property
    def cost(self) -> Cost:
        """Our count."""
        return counted(self.edits, self.size)


def count(unet: VideoUNet, latents: Sequence[int]) -> Cost:
    """The cost of one evaluation on a clip whose latents have the shape ``latents`` (B F C H W).

    The network may hold real or meta weights and is not changed: shapes are walked on the meta device, where attention
    is two plain matrix products and is counted alike on every machine. Errors: SurgeryError for foreign latents.
    """
    totals = by_module(unet, latents)
    return Cost(_by_kind(_own(totals)), _by_kind((name, p.numel()) for name, p in unet.named_parameters()))


def by_module(unet: VideoUNet, latents: Sequence[int]) -> dict[str, int]:
    """Module, under the network's class name, → FLOPs made in it and in the modules inside it; as ``count``.

    Stages ask for one network's cost again and again: one that is built alike, ``layout`` says how, is walked once.
    """
    asked = (tuple(latents), hashlib.sha256(repr(layout(unet)).encode()).hexdigest())
    if asked not in _WALKED:
        _WALKED[asked] = _walk(unet, latents)
    return dict(_WALKED[asked])


def layout(unet: VideoUNet) -> tuple:
    """All that a count depends on: the modules with their settings, what is hooked to them, the shapes of weights."""
    modules = tuple((name, type(module), _settings(module)) for name, module in unet.named_modules())
    weights = tuple((name, t.shape, t.dtype) for name, t in unet.state_dict().items())
    return repr(sorted(unet.config.items())), modules, weights


def _settings(module: nn.Module) -> tuple:
    """Plain values as they are, objects by their kind and theirs, functions and hooks by name."""
    told = {name: value for name, value in vars(module).items() if not isinstance(value, dict) and name != "training"}
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    return tuple((name, _told(value)) for name, value in told.items()), tuple(map(_told, hooks))


def _told(value: object) -> object:
    if value is None or isinstance(value, bool | int | float | str | torch.dtype):
        return value
    if isinstance(value, nn.Module | Tensor):  # a module of the network has its own line
        return type(value)
    if isinstance(value, list | tuple | set | frozenset):
        return type(value), tuple(map(_told, value))
    inside = tuple((name, _told(of)) for name, of in getattr(value, "__dict__", {}).items() if not callable(of))
    return getattr(value, "__qualname__", type(value)), () if callable(value) else inside


def _walk(unet: VideoUNet, latents: Sequence[int]) -> dict[str, int]:
    batch, frames, channels, height, width = latents
    config = unet.config
    if channels != config.out_channels:
        raise SurgeryError("These latents are not this network's", got=channels, allowed=str(config.out_channels))
    like = {"device": "meta", "dtype": next(unet.parameters()).dtype}
    given = (
        torch.empty(batch, frames, config.in_channels, height, width, **like),
        torch.empty(batch, **like),
        torch.empty(batch, 1, _context_width(config.cross_attention_dim), **like),
        torch.empty(batch, config.projection_class_embeddings_input_dim // config.addition_time_embed_dim, **like),
    )
    shapes = {name: torch.empty_like(tensor, device="meta") for name, tensor in unet.state_dict().items()}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        torch.func.functional_call(unet, shapes, given)
    return {name: sum(of.values()) for name, of in counter.get_flop_counts().items() if name != "Global"}


@cache
def counted(edits: tuple[Edit, ...], size: tuple[int, int] = SMALL) -> Cost:
    """SVD's network under ``edits``, one after the other, on 14 frames of ``size`` pixels."""
    unet = reference.unet()
    for edit in edits:
        edit(unet)
    width, height = size
    frames, channels = reference.UNET["num_frames"], reference.UNET["out_channels"]
    return count(unet, (1, frames, channels, height // PIXELS_PER_LATENT, width // PIXELS_PER_LATENT))


def paper_keep(unet: VideoUNet, n: int = 11) -> list[str]:
    """``n`` of SVD's 38 temporal blocks, transformers before ResBlocks and large pictures before small ones.

    Deviates: the paper prints no layout; this one has its FLOPs. The 11 are the transformers of levels 0 and 1, and one
    of level 2.
    """
    levels = ("down_blocks.0", "up_blocks.3", "down_blocks.1", "up_blocks.2", "up_blocks.1", "down_blocks.2", "")
    places = [f"{level}.{half}" if level else half for half in ("attentions", "resnets") for level in levels]
    names = list(temporal_blocks(unet))
    first = sorted(names, key=lambda name: next(i for i, place in enumerate(places) if place in name))[:n]
    return [name for name in names if name in first]


def prune(unet: VideoUNet, n: int = 11) -> None:
    """``n`` of 38 temporal blocks stay."""
    temporal_pruning.remove(unet, paper_keep(unet, n))


def funnel(unet: VideoUNet) -> None:
    """The final model's funnels: half of the channels of every spatial self-attention head."""
    channel_funnel.narrow(unet, 0.5, "spatial")


_CROSS = (cross_attention.apply,)
_FRAMES = (*_CROSS, temporal_multiscale.apply)
_PRUNED = (*_FRAMES, prune)
_FUNNELED = (*_PRUNED, funnel)

LADDER = (
    Rung("SVD 1024x576", (), LARGE, 50, 45.43, 149, "svd/unet"),
    Rung("MobileVD-HD 1024x576", _FUNNELED, LARGE, 1, 23.63, 184, "method/surgery"),
    Rung("SVD 512x256", (), SMALL, 50, 8.60, 476, "svd/unet"),
    Rung("+ low-resolution finetuning", (), SMALL, 50, 8.60, 196, "method/low_resolution"),
    Rung("+ optimized cross-attention", _CROSS, SMALL, 50, 8.24, 196, "method/cross_attention"),
    Rung("+ adversarial finetuning", _CROSS, SMALL, 1, 8.24, 168, "method/adversarial"),
    Rung("+ temporal multiscaling", _FRAMES, SMALL, 1, 5.42, 156, "method/temporal_multiscale"),
    Rung("+ temporal block pruning", _PRUNED, SMALL, 1, 4.64, 150, "method/temporal_pruning"),
    Rung("+ channel funneling", _FUNNELED, SMALL, 1, 4.34, 171, "method/channel_funnel"),
)


def _own(totals: dict[str, int]) -> Iterable[tuple[str, int]]:
    """Module name → operations made in it and in no module inside it; they add up to the network's."""
    own = dict(totals)
    for name, total in totals.items():
        above = name
        while "." in above:
            above = above.rpartition(".")[0]
            if above in totals:
                own[above] -= total
                break
    return own.items()


def _by_kind(amounts: Iterable[tuple[str, int]]) -> dict[str, int]:
    split = dict.fromkeys(KINDS, 0)
    for name, amount in amounts:
        split[kind(name)] += amount
    return split


def _context_width(cross_attention_dim: int | Sequence[int]) -> int:
    return cross_attention_dim if isinstance(cross_attention_dim, int) else cross_attention_dim[0]
