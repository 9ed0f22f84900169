"""Arranged for sampling, a network computes what it did, with the same weights under the same names."""

import pytest
import tiny_svd
import torch
from torch import nn

from mobilevd.method import temporal_multiscale
from mobilevd.svd import inference


@pytest.mark.parametrize("multiscale", [False, True])
@torch.no_grad()
def test_arranged_network_gives_the_same_output(multiscale):
    whole, arranged = tiny_svd.unet(), tiny_svd.unet()
    if multiscale:
        for unet in (whole, arranged):
            temporal_multiscale.apply(unet)
    names = arranged.state_dict().keys()
    assert inference.arrange(arranged) is arranged
    assert arranged.state_dict().keys() == names == whole.state_dict().keys()
    changed = [module for module in arranged.modules() if isinstance(module, inference.OverTime)]
    assert len(changed) == sum(isinstance(module, nn.Conv3d) for module in whole.modules()) > 0
    g = torch.Generator().manual_seed(0)
    given = torch.randn(2, 14, 8, 16, 16, generator=g), torch.randn(2, generator=g), torch.randn(2, 1, 16, generator=g)
    ids = torch.tensor([[6.0, 127.0, 0.02]]).repeat(2, 1)
    expected = whole(*given, ids)
    assert (arranged(*given, ids) - expected).norm() / expected.norm() < 1e-5


def test_convolutions_over_time_have_finite_gradients_in_bf16():
    """oneDNN's own kernel over three axes has not, for clips of two frames (3.12.0)."""
    for seed in range(5):
        torch.manual_seed(seed)
        convolution = inference.over_time(nn.Sequential(nn.Conv3d(32, 32, (3, 1, 1), padding=(1, 0, 0))))
        with torch.autocast("cpu", torch.bfloat16):
            y = convolution(torch.randn(1, 32, 2, 4, 4, requires_grad=True))
        y.float().square().mean().backward()
        assert all(w.grad.isfinite().all() for w in convolution.parameters())


def test_processes_take_the_gpus_in_turn_and_the_cpu_where_there_is_none(monkeypatch):
    assert [inference.device_for(share).type for share in (0, 5)] == [
        "cuda" if torch.cuda.is_available() else "cpu"
    ] * 2
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert [inference.device_for(share) for share in (0, 2, 4)] == [torch.device("cuda", k) for k in (0, 2, 1)]
