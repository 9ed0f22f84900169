"""Every mechanism in the pipeline's order, saved and loaded: the same bits, or a refusal that names the tensor."""

import json

import pytest
import torch
from diffusers import UNetSpatioTemporalConditionModel
from safetensors.torch import load_file, save_file

from mobilevd.errors import IntegrityError, SurgeryError
from mobilevd.method import channel_funnel, cross_attention, surgery, temporal_multiscale, temporal_pruning
from mobilevd.svd.unet import config_of, temporal_blocks


def edit(unet) -> list[dict]:
    """finetune → distill → prune → funnel, as the pipeline edits the network."""
    log = [cross_attention.apply(unet), temporal_multiscale.apply(unet, "max")]
    gates = temporal_pruning.attach(unet, keep=7)
    with torch.no_grad():
        gates.logits.copy_(torch.randn(24, generator=torch.Generator().manual_seed(0)))
    log.append(temporal_pruning.bake(unet, gates))
    channel_funnel.attach(unet, 0.5, "spatial", "csi")
    return [*log, channel_funnel.merge(unet)]


@pytest.mark.parametrize("frames", [4, 5])
@torch.no_grad()
def test_the_whole_pipeline_saved_and_loaded_gives_the_same_bits(build, inputs, tmp_path, frames):
    unet, given = build(torch.float32), inputs(frames=frames, dtype=torch.float32)
    plain = unet(*given)
    log = edit(unet)
    edited = unet(*given)
    assert not torch.allclose(edited, plain)
    surgery.save(unet, log, tmp_path)
    loaded, read = surgery.load(tmp_path)
    assert read == log
    assert [entry["op"] for entry in log] == [
        "cross_attention",
        "temporal_multiscale",
        "temporal_pruning",
        "channel_funnel",
    ]
    assert torch.equal(loaded(*given), edited)
    assert len(temporal_blocks(loaded)) == 7
    assert not any(tensor.is_meta for tensor in loaded.state_dict().values())


@torch.no_grad()
def test_another_order_of_edits_is_replayed_too(build, inputs, tmp_path):
    unet, given = build(torch.float32), inputs(dtype=torch.float32)
    channel_funnel.attach(unet, 0.25, "temporal", "csi")
    log = [channel_funnel.merge(unet), temporal_pruning.remove(unet, list(temporal_blocks(unet))[::2])]
    channel_funnel.attach(unet, 0.5, "spatial", "csi")
    log += [channel_funnel.merge(unet), cross_attention.apply(unet), temporal_multiscale.apply(unet, "stride")]
    surgery.save(unet, log, tmp_path)
    assert torch.equal(surgery.load(tmp_path)[0](*given), unet(*given))


@torch.no_grad()
def test_an_unedited_network_saved_here_loads_in_diffusers_and_back(build, inputs, tmp_path):
    unet, given = build(torch.float32).eval(), inputs(dtype=torch.float32)
    surgery.save(unet, [], tmp_path)
    theirs = UNetSpatioTemporalConditionModel.from_pretrained(tmp_path / "unet", low_cpu_mem_usage=False)
    assert torch.equal(theirs(*given, return_dict=False)[0], unet(*given))
    theirs.save_pretrained(tmp_path / "theirs" / "unet")
    assert torch.equal(surgery.load_base(tmp_path / "theirs")(*given), unet(*given))


def test_a_half_precision_base_is_read_as_float32(build, tmp_path):
    unet = build(torch.float32)
    surgery.save(unet, [], tmp_path)
    half = {name: tensor.half() for name, tensor in unet.state_dict().items()}
    save_file(half, tmp_path / surgery.WEIGHTS_FP16)
    (tmp_path / surgery.WEIGHTS).unlink()
    loaded = surgery.load_base(tmp_path).state_dict()
    assert all(torch.equal(loaded[name], tensor.float()) for name, tensor in half.items())
    assert {tensor.dtype for tensor in loaded.values()} == {torch.float32}


def test_a_dtype_can_be_asked_for(build, tmp_path):
    surgery.save(build(torch.float32), [], tmp_path)
    assert surgery.load(tmp_path, torch.float64)[0].dtype == torch.float64
    assert surgery.load(tmp_path)[0].dtype == torch.float32


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda tensors: tensors.pop("conv_in.bias"), "missing conv_in.bias"),
        (lambda tensors: tensors.update(stowaway=torch.zeros(1)), "extra stowaway"),
        (lambda tensors: tensors.update({"conv_in.bias": torch.zeros(31)}), r"conv_in.bias is \(31,\), not \(32,\)"),
    ],
)
def test_a_tensor_that_does_not_belong_is_refused_by_name(build, tmp_path, damage, told):
    unet = build(torch.float32)
    surgery.save(unet, edit(unet), tmp_path)
    tensors = load_file(tmp_path / surgery.WEIGHTS)
    damage(tensors)
    save_file(tensors, tmp_path / surgery.WEIGHTS)
    with pytest.raises(IntegrityError, match=told):
        surgery.load(tmp_path)


@pytest.mark.parametrize("name", [surgery.CONFIG, surgery.LOG, surgery.WEIGHTS])
def test_a_missing_file_is_refused_by_name(build, tmp_path, name):
    surgery.save(build(torch.float32), [], tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(IntegrityError, match=name.rsplit("/", 1)[1]):
        surgery.load(tmp_path)


def test_a_log_that_was_tampered_with_is_refused(build, tmp_path):
    unet = build(torch.float32)
    log = edit(unet)
    surgery.save(unet, log, tmp_path)
    (tmp_path / surgery.LOG).write_text(json.dumps(log[:-1]))
    with pytest.raises(IntegrityError, match=r"attn1\.to_k\.weight is \(16, 32\), not \(32, 32\)"):
        surgery.load(tmp_path)


def test_a_network_its_log_does_not_explain_is_not_saved(build, tmp_path):
    unet = build(torch.float32)
    log = [cross_attention.apply(unet)]
    gates = temporal_pruning.attach(unet, keep=3)
    with pytest.raises(SurgeryError, match="GatedBlender"):
        surgery.save(unet, log, tmp_path)
    log.append(temporal_pruning.bake(unet, gates))
    channel_funnel.attach(unet, 0.5, "spatial", "csi")
    with pytest.raises(SurgeryError, match="FunneledAttention"):
        surgery.save(unet, log, tmp_path)
    log.append(channel_funnel.merge(unet))
    temporal_multiscale.apply(unet, "max")
    with pytest.raises(SurgeryError, match="frame_"):
        surgery.save(unet, log, tmp_path)
    with pytest.raises(SurgeryError, match="average"):
        surgery.save(unet, [*log, {"op": "temporal_multiscale", "down": "average"}], tmp_path)
    surgery.save(unet, [*log, {"op": "temporal_multiscale", "down": "max"}], tmp_path)


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ([{"op": "cross_attention"}] * 2, "no cross-attention left"),
        ([{"op": "temporal_multiscale", "down": "max"}] * 2, "already rescaled"),
        (
            [{"op": "temporal_pruning", "keep": []}, {"op": "temporal_pruning", "keep": ["mid_block.resnets.0"]}],
            "mid_block",
        ),
        ([{"op": "channel_funnel", "fun_factor": 0.5, "where": "all"}] * 2, "Funnels cannot go there"),
        (
            [{"op": "temporal_pruning", "keep": []}, {"op": "channel_funnel", "fun_factor": 0.5, "where": "temporal"}],
            "no self",
        ),
        ([{"op": "quantize"}], "nobody knows"),
    ],
)
def test_impossible_logs_are_refused_with_the_reason(build, log, reason):
    with pytest.raises(SurgeryError, match=reason):
        surgery.rebuild(config_of(build()), log)
