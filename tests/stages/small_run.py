"""A tiny run up to its evaluation: a base, three held-out clips that move, a network of each stage, a graph."""

from pathlib import Path

import numpy as np
import tiny_svd
import torch
from movies import texture
from safetensors.torch import save_file

from mobilevd.artifacts import StageRecord, seal
from mobilevd.device.export import export
from mobilevd.device.inputs import one_step
from mobilevd.device.one_clip import OneClip
from mobilevd.method import cross_attention, surgery, temporal_multiscale, temporal_pruning
from mobilevd.params import Recipe, check
from mobilevd.svd import base as bases
from mobilevd.svd.unet import temporal_blocks

FRAMES, SIDE, PREPARED, STEPS, SEED = 9, 128, 3, 2, 5


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
            "evaluate": {"clips": clips, "teacher_steps": STEPS},
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
    spec = one_step(FRAMES, 4, SIDE // 8, SIDE // 8, token_dim=16)
    export(OneClip(network), spec, home / "onnx" / "quantized.onnx", opset=20)
    spec.save(home / "onnx")
    return made | {"quantize": StageRecord(stage="quantize", artifacts={"onnx": seal(home / "onnx")}, **own)}


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
