"""Every mechanism in the pipeline's order, saved and loaded: the same bits, or a refusal that names the tensor."""

import hashlib
import json
import re
import shutil

import pytest
import torch
from diffusers import UNetSpatioTemporalConditionModel
from safetensors.torch import load_file, save_file

from mobilevd.errors import IntegrityError, SurgeryError
from mobilevd.method import channel_funnel, cross_attention, surgery, temporal_multiscale, temporal_pruning
from mobilevd.svd import base
from mobilevd.svd.unet import config_of, temporal_blocks


def edit(unet) -> list[dict]:
    """finetune → distill → prune → funnel, as the pipeline edits the network."""
    log = [cross_attention.apply(unet), temporal_multiscale.apply(unet, "max")]
    gates = temporal_pruning.attach(unet)
    gates.set((torch.randperm(24, generator=torch.Generator().manual_seed(0)) < 7).double())
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
    assert torch.equal(base.Base(tmp_path / "theirs").unet()(*given), unet(*given))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_network_keeps_its_precision_unless_another_is_asked_for(build, tmp_path, dtype):
    unet = build(dtype)
    surgery.save(unet, [], tmp_path)
    stored, asked = surgery.load(tmp_path)[0], surgery.load(tmp_path, torch.float64)[0]
    for name, tensor in unet.named_parameters():
        assert torch.equal(stored.get_parameter(name), tensor)
        assert torch.equal(asked.get_parameter(name), tensor.double())
    assert (stored.dtype, asked.dtype) == (dtype, torch.float64)


def test_every_tensor_is_described_by_dtype_shape_and_digest_of_what_is_stored(build, tmp_path):
    unet = build(torch.float16)
    surgery.save(unet, [], tmp_path)
    told = json.loads((tmp_path / surgery.TENSORS).read_text())
    assert told.keys() == unet.state_dict().keys()
    digest = hashlib.sha256(unet.conv_in.weight.detach().numpy().tobytes()).hexdigest()
    assert told["conv_in.weight"] == {"dtype": "float16", "shape": [32, 8, 3, 3], "sha256": digest}


def saved(unet, folder) -> dict[str, torch.Tensor]:
    """The tensors of an edited network that was saved in ``folder``."""
    surgery.save(unet, edit(unet), folder)
    return load_file(folder / surgery.WEIGHTS)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda tensors: tensors.pop("conv_in.bias"), "conv_in.bias is gone"),
        (lambda tensors: tensors.update(stowaway=torch.zeros(1)), "stowaway was not among them"),
        (
            lambda tensors: tensors.update({"conv_in.bias": torch.zeros(31)}),
            r"conv_in.bias has shape \[31\], not \[32\]",
        ),
    ],
)
def test_a_tensor_that_does_not_belong_is_refused_by_name(build, tmp_path, damage, told):
    tensors = saved(build(torch.float32), tmp_path)
    damage(tensors)
    save_file(tensors, tmp_path / surgery.WEIGHTS)
    with pytest.raises(IntegrityError, match=told):
        surgery.load(tmp_path)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda tensors, a, b: tensors[a].view(-1)[3].add_(1), "got:     {a} holds other bytes\n"),
        (
            lambda tensors, a, b: tensors.update({a: tensors[a].double()}),
            "got:     {a} has dtype float64, not float32\n",
        ),
        (
            lambda tensors, a, b: tensors.update({a: tensors[b], b: tensors[a]}),
            "got:     {a} holds the bytes of {b}; {b} holds the bytes of {a}\n",
        ),
    ],
)
def test_a_changed_tensor_of_the_right_shape_is_refused_by_name(build, tmp_path, damage, told):
    a, b = (f"down_blocks.{level}.attentions.0.proj_in.weight" for level in (0, 1))
    tensors = saved(build(torch.float32), tmp_path)
    assert tensors[a].shape == tensors[b].shape
    damage(tensors, a, b)
    save_file(tensors, tmp_path / surgery.WEIGHTS)
    with pytest.raises(IntegrityError, match=re.escape(told.format(a=a, b=b))):
        surgery.load(tmp_path)


def test_weights_of_another_network_of_the_same_form_are_refused(build, tmp_path):
    names = saved(build(torch.float32), tmp_path / "own").keys()
    saved(build(torch.float32, seed=1), tmp_path / "foreign")
    shutil.copyfile(tmp_path / "foreign" / surgery.WEIGHTS, tmp_path / "own" / surgery.WEIGHTS)
    with pytest.raises(IntegrityError, match=r"holds other bytes; (.|\n)*and \d{2,} more"):
        surgery.load(tmp_path / "own")
    assert len(names) > 100


@pytest.mark.parametrize("part", [0.9, 0.5, 0.1, 0.0])
def test_weights_cut_off_are_refused_naming_the_first_tensor_lost(build, tmp_path, part):
    saved(build(torch.float32), tmp_path)
    data = (tmp_path / surgery.WEIGHTS).read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    ends = {name: told["data_offsets"][1] for name, told in json.loads(data[8:start]).items() if name[0] != "_"}
    size = start + int(part * (len(data) - start)) if part else start // 2
    lost = min((end, name) for name, end in ends.items() if start + end > size)[1]
    (tmp_path / surgery.WEIGHTS).write_bytes(data[:size])
    with pytest.raises(IntegrityError, match=f"{lost} is cut off" if part else "its header is cut off"):
        surgery.load(tmp_path)


@pytest.mark.parametrize("name", [surgery.CONFIG, surgery.LOG, surgery.TENSORS])
def test_a_text_that_cannot_be_read_is_refused_by_name(build, tmp_path, name):
    surgery.save(build(torch.float32), [], tmp_path)
    (tmp_path / name).write_text((tmp_path / name).read_text()[:-3])
    with pytest.raises(IntegrityError, match=name):
        surgery.load(tmp_path)


@pytest.mark.parametrize("name", [surgery.CONFIG, surgery.LOG, surgery.TENSORS, surgery.WEIGHTS])
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
    with pytest.raises(IntegrityError, match=r"belong to another(.|\n)*surgery\.json"):
        surgery.load(tmp_path)
    save_file(load_file(tmp_path / surgery.WEIGHTS), tmp_path / surgery.WEIGHTS)  # as others write: no word of the log
    with pytest.raises(IntegrityError, match=r"attn1\.to_k\.weight is \(16, 32\), not \(32, 32\)"):
        surgery.load(tmp_path)


@pytest.mark.parametrize("name", [surgery.CONFIG, surgery.LOG])
def test_a_configuration_or_a_log_of_the_same_shapes_and_another_function_is_refused_by_name(build, tmp_path, name):
    unet = build(torch.float32)
    surgery.save(unet, [temporal_multiscale.apply(unet, "max")], tmp_path)
    text = (tmp_path / name).read_text()
    changed = text.replace('"max"', '"stride"').replace('"num_frames": 4', '"num_frames": 5')
    assert changed != text
    (tmp_path / name).write_text(changed)
    with pytest.raises(IntegrityError, match=rf"belong to another(.|\n)*{name}"):
        surgery.load(tmp_path)


@pytest.mark.parametrize("told", [[], {"conv_in.bias": None}, {"conv_in.bias": {"sha256": ["a"]}}])
def test_a_description_that_is_none_is_refused(build, tmp_path, told):
    surgery.save(build(torch.float32), [], tmp_path)
    (tmp_path / surgery.TENSORS).write_text(json.dumps(told))
    with pytest.raises(IntegrityError, match=r"not described\n.*tensors\.json"):
        surgery.load(tmp_path)


def test_a_network_its_log_does_not_explain_is_not_saved(build, tmp_path):
    unet = build(torch.float32)
    log = [cross_attention.apply(unet)]
    gates = temporal_pruning.attach(unet)
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
        ([{"op": "temporal_pruning", "keep": None}], "nobody knows"),
        ([{"op": "channel_funnel", "fun_factor": "0.5", "where": ["all"]}], "nobody knows"),
    ],
)
def test_impossible_logs_are_refused_with_the_reason(build, log, reason):
    with pytest.raises(SurgeryError, match=reason):
        surgery.rebuild(config_of(build()), log)
