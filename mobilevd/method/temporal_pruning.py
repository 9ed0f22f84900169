"""Temporal block pruning: learn which n temporal blocks matter, keep them, remove the others' compute and weights.

**Source** MobileVD (arXiv 2412.07583) Table 1; Brewer (1975), Tillé, *Sampling Algorithms* (2006).
**Keeps** a removed block ≡ gate 0, a kept one ≡ gate 1 (``tests/method/test_temporal_pruning.py``).
Deviates: the paper's equations could not be read; q, p and the sampler below are a consistent set of ours.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mobilevd.errors import SurgeryError
from mobilevd.svd.unet import AlphaBlender, SpatioTemporalResBlock, temporal_blocks

OP = "temporal_pruning"
CERTAIN = 1.0 - 1.0e-12  # an inclusion probability that counts as 1


def attach(unet: nn.Module, keep: int) -> "TemporalGates":
    """Put a gate on every temporal block of ``unet`` in place, all open; return what learns which ``keep`` stay.

    Copies of ``unet`` (an average of its weights, say) obey the same gates. Errors: SurgeryError when ``keep`` is not
    between 0 and the number of blocks, or the network has gates already.
    """
    blocks = temporal_blocks(unet)
    if any(isinstance(block.time_mixer, GatedBlender) for block in blocks.values()):
        raise SurgeryError("The network has gates already", allowed="bake them before attaching new ones", where=OP)
    if not 0 <= keep <= len(blocks):
        raise SurgeryError(
            "The network does not have that many temporal blocks",
            got=keep,
            allowed=f"0 to {len(blocks)}",
            where="prune.keep",
        )
    opening = Opening(torch.ones(len(blocks), dtype=torch.float64))
    for index, block in enumerate(blocks.values()):
        block.time_mixer = GatedBlender(block.time_mixer, opening, index)
    return TemporalGates(list(blocks), keep, opening).to(next(unet.parameters()).device)


def bake(unet: nn.Module, gates: "TemporalGates") -> dict:
    """Keep the top ``keep`` blocks of ``unet`` with their plain blending, remove the temporal half of all others."""
    for block in temporal_blocks(unet).values():
        if isinstance(block.time_mixer, GatedBlender):
            block.time_mixer = block.time_mixer.plain()
    return remove(unet, gates.top())


def remove(unet: nn.Module, keep: list[str]) -> dict:
    """Remove the temporal half of every block whose name is not in ``keep``; return the log entry.

    Errors: SurgeryError for a name that is no temporal block (any more).
    """
    blocks = temporal_blocks(unet)
    if unknown := sorted(set(keep) - blocks.keys()):
        raise SurgeryError("These are no temporal blocks of this network", got=", ".join(unknown), where="keep")
    for name, block in blocks.items():
        if name not in keep:
            half = SpatialResBlock if isinstance(block, SpatioTemporalResBlock) else SpatialTransformer
            unet.set_submodule(name, half(block))
    return {"op": OP, "keep": [name for name in blocks if name in keep]}


def inclusion_probabilities(logits: Float[Tensor, "K"], n: int) -> Float[Tensor, "K"]:
    """p_i = min(1, c·q_i) with q_i = exp(logit_i) and c such that Σ p_i = n; float64, differentiable in the logits.

    Fix every p_i ≥ 1 at 1, rescale the rest to what is left, repeat until none exceeds 1. A fixed p_i has no gradient.
    """
    q = (logits.double() - logits.detach().double().max()).exp()
    certain = torch.full_like(q, n == len(q), dtype=torch.bool)
    while not certain.all():
        rest = torch.where(certain, 0.0, q)
        p = torch.where(certain, 1.0, (n - int(certain.sum())) * rest / rest.sum())
        over = (p >= CERTAIN) & ~certain
        if not over.any():
            return p
        certain = certain | over
    return torch.ones_like(q) + 0.0 * q


def brewer_weights(p: Float[Tensor, "K"], drawn: Bool[Tensor, "K"]) -> Float[Tensor, "K"]:
    """Brewer's chances of draw r, unnormalised: p_k (n − a − p_k) / (n − a − p_k (n − r + 1)), and 0 once drawn.

    n = Σ p; a = Σ p over the r − 1 units drawn so far; 0 < p_k < 1 for all k.
    """
    left, to_draw = p[~drawn].sum(), round(p.sum().item()) - int(drawn.sum())
    return torch.where(drawn, 0.0, p * (left - p) / (left - p * to_draw))


def brewer_sample(p: Float[Tensor, "K"], generator: torch.Generator) -> Bool[Tensor, "K"]:
    """Draw exactly Σ p of K units without replacement, so that unit k is drawn with probability exactly p_k."""
    z = p >= CERTAIN
    open_units = ((p > 0.0) & ~z).nonzero().flatten()
    drawn = torch.zeros_like(open_units, dtype=torch.bool)
    for _ in range(round(p[open_units].sum().item())):
        drawn[torch.multinomial(brewer_weights(p[open_units], drawn), 1, generator=generator)] = True
    z[open_units[drawn]] = True
    return z


class Opening:
    """The z in force, shared by all gates; a copied network keeps listening to the same one."""

    def __init__(self, z: Tensor):
        self.z = z

    def __deepcopy__(self, memo: dict) -> "Opening":
        return self


class TemporalGates(nn.Module):
    """Importances q_i = exp(logit_i) of the temporal blocks, equal at the start, and the z ∈ {0, 1} they draw."""

    def __init__(self, names: list[str], keep: int, opening: Opening):
        super().__init__()
        self.names, self.keep, self._opening = names, keep, opening
        self.logits = nn.Parameter(torch.zeros(len(names)))

    def probabilities(self) -> Float[Tensor, "K"]:
        """Inclusion probabilities p (float64), Σ p = keep."""
        return inclusion_probabilities(self.logits, self.keep)

    def sample(self, generator: torch.Generator) -> Float[Tensor, "K"]:
        """Draw the z of the next forward. Straight-through: z forward, dL/dp := dL/dz backward.

        Draw anew before every backward: the graph from z to the logits is used up by one.
        """
        p = self.probabilities()
        drawn = brewer_sample(p.detach().cpu(), generator).to(p)
        self._opening.z = drawn + p - p.detach()
        return self._opening.z

    def keep_top(self) -> list[str]:
        """Open the ``keep`` most important gates, close the others, without a graph; return the open ones' names."""
        names = self.top()
        self._opening.z = torch.tensor([float(name in names) for name in self.names], dtype=torch.float64)
        return names

    def top(self) -> list[str]:
        """Names of the ``keep`` most important blocks, in the network's order; of equals the earlier one."""
        order = torch.sort(self.logits.detach(), descending=True, stable=True).indices[: self.keep]
        return [self.names[index] for index in sorted(order.tolist())]


class GatedBlender(AlphaBlender):
    """y = x_s + z (1 − α)(x_t − x_s), α = sigmoid(mix_factor); z = 1 is SVD's blend, z = 0 the spatial half alone."""

    def __init__(self, blender: AlphaBlender, opening: Opening, index: int):
        super().__init__(0.0, blender.merge_strategy)
        self.mix_factor = blender.mix_factor
        self._opening, self._index = opening, index

    def get_alpha(self, image_only_indicator: Tensor, ndims: int) -> Tensor:
        """1 − z (1 − α), which blended as α x_s + (1 − α) x_t gives y."""
        alpha = super().get_alpha(image_only_indicator, ndims)
        return 1.0 - self._opening.z[self._index].to(alpha) * (1.0 - alpha)

    def plain(self) -> AlphaBlender:
        """SVD's blender with the same mix factor."""
        blender = AlphaBlender(0.0, self.merge_strategy)
        blender.mix_factor = self.mix_factor
        return blender


class SpatialResBlock(nn.Module):
    """What is left of a SpatioTemporalResBlock whose gate is 0: y = x_s."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.spatial_res_block = block.spatial_res_block

    def forward(
        self, hidden_states: Float[Tensor, "N C H W"], temb: Tensor | None = None, image_only_indicator: object = None
    ) -> Float[Tensor, "N C2 H W"]:
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
        x = self.proj_in(self.norm(hidden_states).flatten(2).transpose(1, 2))
        for block in self.transformer_blocks:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                x = self._gradient_checkpointing_func(block, x, None, encoder_hidden_states, None)
            else:
                x = block(x, encoder_hidden_states=encoder_hidden_states)
        x = self.proj_out(x).transpose(1, 2).unflatten(2, hidden_states.shape[-2:])
        return (x.contiguous() + hidden_states,)
