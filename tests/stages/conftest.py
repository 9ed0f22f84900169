"""A tiny base, tiny prepared clips and a tiny recipe: every training stage runs on them in seconds."""

import json

import pytest
import tiny_svd
import torch
from safetensors.torch import save_file

from mobilevd.artifacts import StageRecord, seal, write_json
from mobilevd.params import check
from mobilevd.svd.unet import VideoUNet, config_of
from mobilevd.video import store

CONFIG = tiny_svd.UNET | {"in_channels": 16, "out_channels": 8, "num_frames": 3}
LEVEL = 1.5
OPTIM = {"lr": 1.0e-3}
ADVERSARIAL = {"steps": 2, "generator": OPTIM, "discriminator": OPTIM, "head_channels": 16, "validate_every": 1}


@pytest.fixture
def tiny_base(tmp_path):
    """A folder in diffusers layout whose network is random; its other parts are names only."""
    folder = tmp_path / "base"
    torch.manual_seed(0)
    unet = VideoUNet(**CONFIG)
    write_json(folder / "unet" / "config.json", json.loads(json.dumps(config_of(unet))))
    save_file(unet.state_dict(), folder / "unet" / "diffusion_pytorch_model.safetensors")
    for part in ("vae", "image_encoder"):
        write_json(folder / part / "config.json", {})
    return folder


@pytest.fixture
def tiny_recipe(tiny_base):
    """``tiny_recipe(finetune={...})``: the recipe of the tests with some sections' keys changed, or sections added."""

    def make(**changes):
        sections = {
            "finetune": {"steps": 2, "optim": OPTIM, "validate_every": 1},
            "distill": {"adversarial": ADVERSARIAL},
            "prune": {"keep": 9, "adversarial": ADVERSARIAL},
            "funnel": {"adversarial": ADVERSARIAL},
        }
        merged = {name: {**section, **changes.get(name, {})} for name, section in sections.items()}
        merged |= {name: section for name, section in changes.items() if name not in sections}
        gates = [{"metric": "student.fvd", "max": 1.0}]
        clip = {"frames": 3, "width": 64, "height": 64}
        return check({"name": "tiny", "base": str(tiny_base), "clip": clip, "gates": gates, **merged})

    return make


@pytest.fixture
def prepared(tmp_path):
    """The record of a stage prepare that left latents in the layout of a real one: noise around one level to learn."""

    def make(recipe) -> dict[str, StageRecord]:
        folder = tmp_path / "prepare" / "latents"
        folder.mkdir(parents=True, exist_ok=True)
        for seed, (side, count) in enumerate({"train": 4, "validation": 2}.items()):
            g = torch.Generator().manual_seed(seed)
            tensors = {
                "latents": (0.5 * torch.randn(count, 3, 8, 8, 8, generator=g) + LEVEL).half(),
                "image_latents": torch.randn(count, 8, 8, 8, generator=g).half(),
                "tokens": torch.randn(count, 1, 16, generator=g).half(),
            }
            save_file(tensors, folder / f"{side}.safetensors")
        g = torch.Generator().manual_seed(2)
        with store.ClipFile(folder.parent / "clips" / "train.safetensors", recipe.clip) as clips:
            for _ in range(4):
                clips.append(torch.randint(0, 256, (3, 3, 64, 64), generator=g).byte())
        artifacts = {"latents": seal(folder), "clips": seal(folder.parent / "clips")}
        values = {"recipe_digest": recipe.digest, "data_md5": "0" * 32, "artifacts": artifacts}
        return {"prepare": StageRecord(stage="prepare", **values)}

    return make


@pytest.fixture
def trained(prepared, tmp_path):
    """Records as the stages up to ``upto`` would leave them, with networks edited and not trained."""
    from mobilevd.method import cross_attention, surgery, temporal_multiscale, temporal_pruning
    from mobilevd.svd import base
    from mobilevd.svd.unet import temporal_blocks

    edits = {
        "finetune": cross_attention.apply,
        "distill": temporal_multiscale.apply,
        "prune": lambda unet: temporal_pruning.remove(unet, list(temporal_blocks(unet))[:9]),
    }

    def make(recipe, upto: str) -> dict[str, StageRecord]:
        records, unet, log = prepared(recipe), base.load(recipe.base).unet(), []
        for stage, edit in edits.items():
            log.append(edit(unet))
            surgery.save(unet, log, tmp_path / "given" / stage)
            values = {"recipe_digest": recipe.digest, "data_md5": "0" * 32}
            artifacts = {"network": seal(tmp_path / "given" / stage)}
            records[stage] = StageRecord(stage=stage, artifacts=artifacts, **values)
            if stage == upto:
                return records
        raise AssertionError(upto)

    return make


class KilledError(Exception):
    """Stands for a kill in the middle of a training."""


@pytest.fixture
def killed_at(monkeypatch):
    """Make the training loop die when it records step ``k`` for the first time."""
    from mobilevd.training import loop

    def arm(k: int) -> type[Exception]:
        record, armed = loop._Loop._record, [True]

        def dying(self, step, values):
            if armed[0] and step == k:
                armed[0] = False
                raise KilledError
            record(self, step, values)

        monkeypatch.setattr(loop._Loop, "_record", dying)
        return KilledError

    return arm
