"""Temporal block pruning: a gate on every temporal block; shut ones are removed with their compute and weights.

**Source** MobileVD (arXiv 2412.07583) Table 1; which gates stay open is ``block_importance.py``'s.
**Changes** SVD's temporal halves; AnimateDiff's motion modules. **Keeps** a removed block ≡ its gate at 0, a kept one
≡ its gate at 1 (``tests/method/test_temporal_pruning.py``). **Axes** z [K], one gate per block.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mobilevd.errors import SurgeryError
from mobilevd.svd.animatediff import AnimateDiffTransformer3D, foreign_temporal_layers, motion_modules
from mobilevd.svd.unet import AlphaBlender, SpatioTemporalResBlock, temporal_blocks

OP = "temporal_pruning"
KINDS = "SpatioTemporalResBlock, TransformerSpatioTemporalModel, AnimateDiffTransformer3D"


def attach(network: nn.Module) -> "Gates":
    """Put a gate on every temporal block of ``network`` in place, all open; return what sets them.

    Copies of ``network`` (an average of its weights, say) obey the same gates. Errors: SurgeryError, naming the block,
    when one has a gate already or cannot take one.
    """
    blocks = prunable(network)
    _refuse_ungateable(blocks)
    gates = Gates(list(blocks))
    for index, block in enumerate(blocks.values()):
        gated = GatedLinear if isinstance(block, AnimateDiffTransformer3D) else GatedBlender
        setattr(block, _output_of(block), gated(getattr(block, _output_of(block)), gates, index))
    return gates


def bake(network: nn.Module, gates: "Gates") -> dict:
    """Remove the blocks whose gate is at 0, fold the value of every other gate into its block; return the log entry.

    z = 1 leaves the block's own weights. Errors: SurgeryError when there are no gates, or one is not within 0 and 1.
    """
    blocks = prunable(network)
    z = gates.z.detach().double().cpu()
    if not ((z >= 0.0) & (z <= 1.0)).all():
        raise SurgeryError("These gates cannot be baked", got=z.tolist(), allowed="0 to 1", where=OP)
    for name, value in zip(gates.names, z.tolist(), strict=True):
        block = blocks.get(name)
        gated = getattr(block, _output_of(block)) if block is not None else None
        if not isinstance(gated, GatedBlender | GatedLinear):
            raise SurgeryError("This block has no gate to bake", got=name, allowed="attach gates first", where=OP)
        setattr(block, _output_of(block), gated.settled(value))
    return remove(network, [name for name, value in zip(gates.names, z, strict=True) if value > 0.0])


def remove(network: nn.Module, keep: list[str]) -> dict:
    """Remove the temporal half of every block whose name is not in ``keep``; return the log entry.

    Errors: SurgeryError for a name that is no temporal block (any more), or a network that has none to prune.
    """
    blocks = prunable(network, keep)
    for name, block in blocks.items():
        if name not in keep:
            network.set_submodule(name, _without_time(block))
    return {"op": OP, "keep": [name for name in blocks if name in keep]}


def prunable(network: nn.Module, keep: list[str] | None = None) -> dict[str, nn.Module]:
    """Name → temporal block, in the network's order.

    Errors: SurgeryError when a name in ``keep`` is none of them, when there is none, or when the network has temporal
    layers of another kind, by name: they would be left as they are in silence.
    """
    blocks = temporal_blocks(network) | motion_modules(network)
    if unknown := sorted(set(keep or ()) - blocks.keys()):
        raise SurgeryError("These are no temporal blocks of this network", got=", ".join(unknown), where="keep")
    if foreign := foreign_temporal_layers(network):
        raise SurgeryError("These temporal layers cannot be pruned", got=", ".join(foreign), allowed=KINDS, where=OP)
    if not blocks:
        raise SurgeryError("The network has no temporal block", got=type(network).__name__, allowed=KINDS, where=OP)
    return blocks


def magnitudes(network: nn.Module) -> Float[Tensor, "K"]:
    """(4) 1 − α of every temporal block: the temporal half's share of the blend, float64.

    Errors: SurgeryError for motion modules, by name: they are added, not blended.
    """
    blocks = prunable(network)
    if motion := [name for name, block in blocks.items() if isinstance(block, AnimateDiffTransformer3D)]:
        raise SurgeryError("These blocks have no blend to rank them by", got=", ".join(motion), where="prune.by")
    return torch.stack([1.0 - _alpha(block.time_mixer) for block in blocks.values()])


class Gates:
    """The z in force, shared by all gates of a network; a copied network keeps listening to the same one."""

    def __init__(self, names: list[str]):
        self.names, self.z = names, torch.ones(len(names), dtype=torch.float64)

    def set(self, z: Float[Tensor, "K"]) -> None:
        """z of the next forward, with its graph if it has one."""
        self.z = z

    def __deepcopy__(self, memo: dict) -> "Gates":
        return self


class GatedBlender(AlphaBlender):
    """(1) y = x_s + z (1 − α)(x_t − x_s), α = sigmoid(mix_factor); z = 1 is SVD's blend, z = 0 the spatial half."""

    def __init__(self, blender: AlphaBlender, gates: Gates, index: int):
        super().__init__(0.0, blender.merge_strategy)
        self.mix_factor = blender.mix_factor
        self._gates, self._index = gates, index

    def get_alpha(self, image_only_indicator: Tensor, ndims: int) -> Tensor:
        """1 − z (1 − α), which blended as α x_s + (1 − α) x_t gives y."""
        alpha = super().get_alpha(image_only_indicator, ndims)
        return 1.0 - self._gates.z[self._index].to(alpha) * (1.0 - alpha)

    @torch.no_grad()
    def settled(self, z: float) -> AlphaBlender:
        """(2) A plain blender with 1 − α' = z (1 − α)."""
        blender = AlphaBlender(0.0, self.merge_strategy)
        blender.mix_factor = self.mix_factor
        if 0.0 < z < 1.0:
            alpha = 1.0 - z * (1.0 - _alpha(self))
            folded = alpha if self.merge_strategy == "fixed" else alpha.logit()
            blender.mix_factor.copy_(folded)
        return blender


class GatedLinear(nn.Linear):
    """(3) The last projection of a residual block, z (W h + b): z = 1 is the block, z = 0 leaves y = x."""

    def __init__(self, linear: nn.Linear, gates: Gates, index: int):
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self._gates, self._index = gates, index

    def forward(self, input: Tensor) -> Tensor:
        """z (W h + b)."""
        y = super().forward(input)
        return self._gates.z[self._index].to(y) * y

    @torch.no_grad()
    def settled(self, z: float) -> nn.Linear:
        """A plain projection with W' = z W, b' = z b."""
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        linear.weight, linear.bias = self.weight, self.bias
        for p in linear.parameters():
            p.mul_(z)
        return linear


class SpatialResBlock(nn.Module):
    """What is left of a SpatioTemporalResBlock whose gate is 0: y = x_s."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.spatial_res_block = block.spatial_res_block

    def forward(
        self, hidden_states: Float[Tensor, "N C H W"], temb: Tensor | None = None, image_only_indicator: object = None
    ) -> Float[Tensor, "N C2 H W"]:
        """The spatial half alone."""
        return self.spatial_res_block(hidden_states, temb)


class SpatialTransformer(nn.Module):
    """What is left of a TransformerSpatioTemporalModel whose gate is 0: the spatial blocks, proj_in and proj_out."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.norm, self.proj_in = block.norm, block.proj_in
        self.transformer_blocks, self.proj_out = block.transformer_blocks, block.proj_out
        self.gradient_checkpointing = block.gradient_checkpointing
        self._gradient_checkpointing_func = getattr(block, "_gradient_checkpointing_func", None)

    def forward(
        self,
        hidden_states: Float[Tensor, "N C H W"],
        encoder_hidden_states: Float[Tensor, "N T E"] | None = None,
        image_only_indicator: object = None,
        return_dict: bool = False,
    ) -> tuple[Float[Tensor, "N C H W"]]:
        """y = x + proj_out(spatial blocks of proj_in(norm(x))), in a tuple as diffusers' own block returns it."""
        x = self.proj_in(self.norm(hidden_states).flatten(2).transpose(1, 2))
        for block in self.transformer_blocks:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                x = self._gradient_checkpointing_func(block, x, None, encoder_hidden_states, None)
            else:
                x = block(x, encoder_hidden_states=encoder_hidden_states)
        x = self.proj_out(x).transpose(1, 2).unflatten(2, hidden_states.shape[-2:])
        return (x.contiguous() + hidden_states,)


class NoMotion(nn.Module):
    """What is left of a motion module whose gate is 0: y = x, whatever else it is told."""

    def forward(self, hidden_states: Float[Tensor, "N C H W"], *_: object, **__: object) -> Float[Tensor, "N C H W"]:
        return hidden_states


def _alpha(blender: AlphaBlender) -> Float[Tensor, ""]:
    """α of a frame that is part of a video, float64."""
    mix = blender.mix_factor.detach().double().squeeze()
    return mix if blender.merge_strategy == "fixed" else torch.sigmoid(mix)


def _output_of(block: nn.Module) -> str:
    """Where a block's temporal part joins what goes on without it."""
    return "proj_out" if isinstance(block, AnimateDiffTransformer3D) else "time_mixer"


def _without_time(block: nn.Module) -> nn.Module:
    if isinstance(block, AnimateDiffTransformer3D):
        return NoMotion()
    return SpatialResBlock(block) if isinstance(block, SpatioTemporalResBlock) else SpatialTransformer(block)


def _refuse_ungateable(blocks: dict[str, nn.Module]) -> None:
    for name, block in blocks.items():
        output, where = getattr(block, _output_of(block)), f"{name}.{_output_of(block)}"
        if isinstance(output, GatedBlender | GatedLinear):
            raise SurgeryError(
                "The network has gates already", allowed="bake them before attaching new ones", where=where
            )
        if type(output) not in (AlphaBlender, nn.Linear):
            allowed = "AlphaBlender or Linear, unchanged"
            raise SurgeryError("This block cannot take a gate", got=type(output).__name__, allowed=allowed, where=where)
        if getattr(output, "switch_spatial_to_temporal_mix", False):
            raise SurgeryError(
                "This block blends the other way round", allowed="SVD's UNet, not its decoder", where=where
            )
