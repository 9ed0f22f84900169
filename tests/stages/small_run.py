"""A tiny run up to its evaluation: a base, three held-out clips that move, a network of each stage, and a graph
that stands for the quantized network: a sum of its inputs, so that what it was given can be told."""

from pathlib import Path

import numpy as np
import onnx
import tiny_svd
import torch
from movies import texture
from safetensors.torch import save_file

from mobilevd.artifacts import StageRecord, seal
from mobilevd.device.inputs import GraphSpec, one_step
from mobilevd.method import cross_attention, surgery, temporal_multiscale, temporal_pruning
from mobilevd.params import Recipe, check
from mobilevd.svd import base as bases
from mobilevd.svd.unet import temporal_blocks

FRAMES, SIDE, PREPARED, STEPS, SEED = 9, 64, 3, 2, 5
ABOVE = 1.0  # of the two steps' σ, 700 and 0.002, the first is guided
HALVED_TWICE = {"block_out_channels": (32,) * 3, "down_block_types": ("DownEncoderBlock2D",) * 3}  # by its autoencoder
LATENTS = (FRAMES, 4, SIDE // 4, SIDE // 4)


def recipe_for(base: Path, clips: int) -> Recipe:
    optim = {"lr": 1.0e-3}
    adversarial = {"steps": 1, "generator": optim, "discriminator": optim}
    return check(
        {
            "name": "tiny",
            "base": str(base),
            "seed": SEED,
            "clip": {"frames": FRAMES, "width": SIDE, "height": SIDE},
            "finetune": {"steps": 1, "optim": optim},
            "distill": {"adversarial": adversarial},
            "prune": {"keep": 9, "adversarial": adversarial},
            "funnel": {"adversarial": adversarial},
            "evaluate": {"clips": clips, "teacher_steps": STEPS, "guidance_above": ABOVE},
            "gates": [{"metric": "student.fvd", "max": 1.0}],
        }
    )


def inputs_for(home: Path, recipe: Recipe) -> dict[str, StageRecord]:
    """What the stages before leave: encoded clips that move, a network of each stage, and a graph of the last one."""
    own = {"recipe_digest": recipe.digest, "data_md5": "d" * 32}
    made = {"prepare": StageRecord(stage="prepare", artifacts=prepared(home, recipe), **own)}
    network, log = tiny_svd.unet(), []
    edits = {
        "finetune": cross_attention.apply,
        "distill": temporal_multiscale.apply,
        "prune": lambda unet: temporal_pruning.remove(unet, list(temporal_blocks(unet))[::2]),
        "funnel": None,
    }
    for order, (stage, edit) in enumerate(edits.items()):
        log += [edit(network)] if edit else []
        network.conv_out.bias.data += 0.01 * order
        surgery.save(network, log, home / stage)
        made[stage] = StageRecord(stage=stage, artifacts={"network": seal(home / stage)}, **own)
    spec = one_step(*LATENTS, token_dim=16)
    spec.save(home / "onnx")
    onnx.save(graph(spec), home / "onnx" / "quantized.onnx")
    return made | {"quantize": StageRecord(stage="quantize", artifacts={"onnx": seal(home / "onnx")}, **own)}


def graph(spec: GraphSpec) -> onnx.ModelProto:
    """noise + image latents + means of token and ids."""
    inputs, outputs = (
        [onnx.helper.make_tensor_value_info(one.name, onnx.TensorProto.FLOAT, one.shape) for one in side]
        for side in (spec.inputs, spec.outputs)
    )
    noise, image, token, ids = spec.names
    nodes = [
        onnx.helper.make_node("ReduceMean", [token], ["t"], keepdims=0),
        onnx.helper.make_node("ReduceMean", [ids], ["i"], keepdims=0),
        onnx.helper.make_node("Add", [noise, image], ["of_both"]),
        onnx.helper.make_node("Add", ["of_both", "t"], ["of_three"]),
        onnx.helper.make_node("Add", ["of_three", "i"], [spec.outputs[0].name]),
    ]
    opsets = [onnx.helper.make_opsetid("", 18)]
    return onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "sum", inputs, outputs), opset_imports=opsets, ir_version=10
    )


def prepared(home: Path, recipe: Recipe) -> dict:
    base, videos = bases.load(recipe.base), []
    for k in range(PREPARED):
        frames = np.stack([np.roll(texture(k, SIDE, SIDE), (2 + k) * f, axis=1) for f in range(FRAMES)])
        videos.append(torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous())
    encoded = [base.encode(video) for video in videos]
    for folder in ("clips", "latents"):
        (home / "prepare" / folder).mkdir(parents=True)
    save_file({"video": torch.stack(videos)}, home / "prepare/clips/validation.safetensors")
    tensors = {name: torch.stack([e[name] for e in encoded]).contiguous() for name in encoded[0]}
    save_file(tensors, home / "prepare/latents/validation.safetensors")
    return {name: seal(home / "prepare" / name) for name in ("clips", "latents")}
