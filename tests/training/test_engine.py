import pytest
import tiny_svd
import torch
from torch import nn

from mobilevd.settings import Training
from mobilevd.svd.unet import VideoUNet
from mobilevd.training.engine import Engine

SMALL = tiny_svd.UNET | {
    "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
    "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
    "block_out_channels": (32, 32),
    "num_attention_heads": (1, 1),
    "num_frames": 2,
}


def _gradient(settings: Training | None):
    """The gradient of one loss, and how many bytes of activations were kept for it; None: of the network as it is."""
    torch.manual_seed(0)
    network, kept = VideoUNet(**SMALL), []
    network = network.train() if settings is None else Engine(settings).prepare(network)
    g = torch.Generator().manual_seed(1)
    given = (torch.randn(1, 2, 8, 8, 8, generator=g), torch.zeros(1), torch.randn(1, 1, 16, generator=g))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.nbytes) or t, lambda t: t):
        network(*given, torch.tensor([[6.0, 127.0, 0.02]])).square().mean().backward()
    return [p.grad for p in network.parameters()], sum(kept)


def test_gradient_checkpointing_keeps_less_and_gives_the_same_gradient():
    whole, bytes_whole = _gradient(None)
    lean, bytes_lean = _gradient(Training(gradient_checkpointing=True))
    assert bytes_lean < 0.45 * bytes_whole
    for want, got in zip(whole, lean, strict=True):
        torch.testing.assert_close(got, want)


def test_a_compiled_network_keeps_its_names_so_that_checkpoints_fit_both_ways(monkeypatch):
    """The compiler itself is not run: it needs a C++ compiler, and minutes."""
    asked = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: asked.append(self))
    network = Engine(Training(compile=True)).prepare(nn.Linear(2, 2))
    assert asked == [network]
    assert set(network.state_dict()) == {"weight", "bias"}


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_half_precision_computes_in_it_and_keeps_weights_whole(precision, dtype):
    engine, network = Engine(Training(precision=precision)), nn.Linear(4, 4)
    with engine.autocast():
        y = network(torch.ones(1, 4))
    y.float().sum().backward()
    assert (y.dtype, network.weight.dtype, network.weight.grad.dtype) == (dtype, torch.float32, torch.float32)


def test_many_tensors_are_averaged_in_few_exchanges_and_each_gets_its_own_mean(monkeypatch):
    """Beside another process whose tensors are zero."""
    engine, sent = Engine(Training()), []
    monkeypatch.setattr("mobilevd.training.engine.BUCKET", 10)
    monkeypatch.setattr(engine, "ranks", 2)
    monkeypatch.setattr(
        engine.accelerator, "reduce", lambda flat, reduction: sent.append((len(flat), reduction)) or flat / 2
    )
    tensors = [torch.randn(shape) for shape in ((2, 3), (4,), (5, 5), (1,), (3, 3), ())]
    want = [t / 2 for t in tensors]
    engine.average(tensors)
    assert sent == [(10, "mean"), (25, "mean"), (10, "mean"), (1, "mean")]
    assert all(torch.equal(got, half) for got, half in zip(tensors, want, strict=True))


def test_alone_nothing_is_averaged_and_every_flag_is_ones_own():
    engine, t = Engine(Training()), torch.ones(3)
    engine.average([t])
    assert t.tolist() == [1.0, 1.0, 1.0]
    assert engine.mean({"a": 2.0}) == {"a": 2.0}
    assert engine.any(True)
    assert not engine.any(False)
