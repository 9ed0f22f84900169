"""Attention along time for an NPU: one frame's queries at a time, and all positions of the picture at once.

**Source** SVD (arXiv 2311.15127). **Changes** the product of small matrices at every position, thousands of them, which
an NPU's compiler lays out one by one, into products of whole pictures: q_f · k_g of a head is the sum over its channels
of q_f k_g, and a matrix of ones sums them. **Keeps** the function, to rounding; every product of matrices is with a
constant one (``tests/device/test_temporal_attention.py``). **Axes** F S C.
"""

import torch
from torch import Tensor, nn

from mobilevd.errors import SurgeryError

EXTRAS = ("group_norm", "spatial_norm", "norm_q", "norm_k", "norm_cross", "add_k_proj")  # None in SVD's
PLAIN = {"residual_connection": False, "rescale_output_factor": 1.0}


class TemporalAttention(nn.Module):
    """Every position looks along its own frames; the weights are those of ``attention``, shared with it.

    Errors: SurgeryError for an attention that does more than project, weigh and project back.
    """

    def __init__(self, attention: nn.Module):
        super().__init__()
        _require_plain(attention)
        self.to_q, self.to_k, self.to_v = attention.to_q, attention.to_k, attention.to_v
        self.to_out = attention.to_out[0]
        like, width = self.to_q.weight, self.to_q.out_features
        of = torch.eye(attention.heads).repeat_interleave(width // attention.heads, dim=0).to(like)  # C heads
        self.register_buffer("sums", of * attention.scale)
        self.register_buffer("spreads", of.t().contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """x [F S C] → [F S C]."""
        queries, keys, values = self.to_q(x), self.to_k(x), self.to_v(x)
        return self.to_out(torch.cat([self._seen(one, keys, values) for one in queries.split(1)]))

    def _seen(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """What one frame's queries [1 S C] find in all frames [F S C]: [1 S C]."""
        scores = (query * keys) @ self.sums  # F S heads
        shares = scores.permute(1, 2, 0).softmax(-1).permute(2, 0, 1)
        return (shares @ self.spreads * values).sum(0, keepdim=True)


def _require_plain(attention: nn.Module) -> None:
    found = [name for name in EXTRAS if getattr(attention, name, None) is not None]
    given = {name: getattr(attention, name, plain) for name, plain in PLAIN.items()}
    found += [f"{name} {value}" for name, value in given.items() if value != PLAIN[name]]
    if found:
        raise SurgeryError("This temporal attention has no form for phones", got=", ".join(found), allowed="SVD's own")
