import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from mobilevd import progress
from mobilevd.settings import Training
from mobilevd.training import precision
from mobilevd.training.engine import Engine


def test_in_fp32_nothing_changes():
    with precision.autocast("cpu", "fp32"):
        assert not torch.is_autocast_enabled("cpu")


class Attentions(TorchDispatchMode):
    """The precisions that attention is computed in."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "scaled_dot_product" in func.__name__:
            self.seen.append(args[0].dtype)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_attention_is_computed_in_full_and_put_out_in_half(name, dtype):
    q, k, v = (torch.randn(1, 2, 5, 8, generator=torch.Generator().manual_seed(i)).to(dtype) for i in range(3))
    with precision.autocast("cpu", name), Attentions() as attentions:
        made = F.scaled_dot_product_attention(q, k, v, scale=0.3)
    full = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), scale=0.3)
    assert torch.equal(made, full.to(dtype))
    assert attentions.seen == [torch.float32]


def test_matrix_products_beside_it_run_in_half():
    with precision.autocast("cpu", "bf16"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_a_processor_without_the_arithmetic_is_told_of(monkeypatch):
    said = []
    monkeypatch.setattr(progress, "say", said.append)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True, "amx_bf16": False})
    Engine(Training(precision="bf16"))
    assert said == ["training.precision bf16: this processor has no such arithmetic and is faster in fp32"]
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    Engine(Training(precision="bf16")), Engine(Training())
    assert len(said) == 1
