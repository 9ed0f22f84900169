"""Optimized cross-attention: attention over one context token needs neither queries nor keys.

**Source** MobileVD (arXiv 2412.07583) Table 1. **Changes** W_q, W_k and the norm before every attn2 go; W_v, W_o keep
their names. **Keeps** the function, to 1e-12 (``tests/method/test_cross_attention.py``).
**Axes** N rows (B·F spatial, B·H·W temporal), S positions, C channels, E context width.
"""

from jaxtyping import Float
from torch import Tensor, nn

from mobilevd.errors import SurgeryError
from mobilevd.svd.affine_pairs import UNLIKE_ATTENTION, refuse
from mobilevd.svd.unet import BasicTransformerBlock, TemporalBasicTransformerBlock, only_svd

OP = "cross_attention"


def apply(unet: nn.Module) -> dict:
    """Rewrite every spatial and temporal transformer block of ``unet`` in place; return the log entry.

    Errors: SurgeryError when there is nothing (left) to rewrite, a cross-attention is of an unknown form, by name, or
    the network is not SVD's.
    """
    only_svd(unet, OP)
    kinds = (BasicTransformerBlock, TemporalBasicTransformerBlock)
    blocks = {name: block for name, block in unet.named_modules() if isinstance(block, kinds)}
    if not blocks:
        raise SurgeryError(
            "There is no cross-attention left to rewrite", allowed="once per network", where="apply: [cross_attention]"
        )
    refuse({f"{name}.attn2": block.attn2 for name, block in blocks.items()}, UNLIKE_ATTENTION, "This is no plain attn2")
    for name, block in blocks.items():
        unet.set_submodule(name, _rewritten(block))
    return {"op": OP}


class TokenAttention(nn.Module):
    """(1) attn2(X, c) = broadcast(W_o W_v c + b_o): one key, hence softmax ≡ 1 for every query.

    W_o W_v stays two matrices: with biases apart they are C·(C + E) weights, the paper's network by count (1474 M);
    guidance's zero context leaves b_o.
    """

    def __init__(self, to_v: nn.Linear, to_out: nn.Linear):
        super().__init__()
        self.to_v = to_v
        self.to_out = nn.ModuleList([to_out])

    def forward(self, context: Float[Tensor, "N T E"]) -> Float[Tensor, "N 1 C"]:
        """Errors: SurgeryError for a context of more than one token, for which the formula does not hold."""
        if context.shape[1] != 1:
            raise SurgeryError(
                "Optimized cross-attention was given more than one context token",
                got=f"{context.shape[1]} tokens",
                allowed="1 token (SVD's image embedding)",
                where="encoder_hidden_states",
            )
        return self.to_out[0](self.to_v(context))


class OneTokenBlock(nn.Module):
    """(2) A spatial transformer block: x += attn1(norm1 x); x += attn2(c); x += ff(norm3 x)."""

    def __init__(self, block: nn.Module, attn2: TokenAttention):
        super().__init__()
        self.norm1, self.attn1 = block.norm1, block.attn1
        self.attn2 = attn2
        self.norm3, self.ff = block.norm3, block.ff

    def forward(
        self,
        hidden_states: Float[Tensor, "N S C"],
        attention_mask: None = None,
        encoder_hidden_states: Float[Tensor, "N T E"] | None = None,
        encoder_attention_mask: None = None,
    ) -> Float[Tensor, "N S C"]:
        """x [N S C] and its context [N 1 E]; masks are there because diffusers passes them."""
        x = hidden_states
        x = self.attn1(self.norm1(x)) + x
        x = self.attn2(encoder_hidden_states) + x
        return self.ff(self.norm3(x)) + x


class OneTokenTemporalBlock(nn.Module):
    """(3) A temporal transformer block: the same three steps over frames, after x += ff_in(norm_in x).

    The context comes repeated over positions; W_o W_v c is computed once per clip.
    """

    def __init__(self, block: nn.Module, attn2: TokenAttention):
        super().__init__()
        self.norm_in, self.ff_in = block.norm_in, block.ff_in
        self.norm1, self.attn1 = block.norm1, block.attn1
        self.attn2 = attn2
        self.norm3, self.ff = block.norm3, block.ff

    def forward(
        self,
        hidden_states: Float[Tensor, "N S C"],
        num_frames: int,
        encoder_hidden_states: Float[Tensor, "M T E"],
    ) -> Float[Tensor, "N S C"]:
        """Rows N = B·F by clip and frame; context rows M = B·S by clip and position."""
        rows, positions, _ = hidden_states.shape
        x = hidden_states.unflatten(0, (rows // num_frames, num_frames)).transpose(1, 2).flatten(0, 1)  # [B·S F C]
        x = self.ff_in(self.norm_in(x)) + x
        x = self.attn1(self.norm1(x)) + x
        token = self.attn2(encoder_hidden_states[::positions])  # [B 1 C]
        x = token.repeat_interleave(positions, dim=0) + x
        x = self.ff(self.norm3(x)) + x
        return x.unflatten(0, (rows // num_frames, positions)).transpose(1, 2).flatten(0, 1)


def _rewritten(block: nn.Module) -> nn.Module:
    kind = OneTokenTemporalBlock if isinstance(block, TemporalBasicTransformerBlock) else OneTokenBlock
    return kind(block, TokenAttention(block.attn2.to_v, block.attn2.to_out[0]))
