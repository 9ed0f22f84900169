"""The ordered log of edits: what was done to a network, so that any checkpoint can be rebuilt and loaded strictly.

**Changes** nothing by itself; replays the mechanisms of this folder. **Keeps** every bit of a saved and loaded network;
refuses a tensor too many, too few or misshapen by its name (``tests/method/test_surgery.py``).
"""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mobilevd.artifacts import write_json
from mobilevd.errors import IntegrityError, SurgeryError
from mobilevd.method import channel_funnel, cross_attention, temporal_multiscale, temporal_pruning
from mobilevd.svd.unet import VideoUNet, config_of

CONFIG = "unet/config.json"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
WEIGHTS_FP16 = "unet/diffusion_pytorch_model.fp16.safetensors"
LOG = "unet/surgery.json"

Log = list[dict]


def save(unet: VideoUNet, log: Log, folder: Path) -> None:
    """Write configuration, weights and log under ``folder``/unet.

    Errors: SurgeryError when ``log`` is not the edits made: a gate not baked, a funnel not merged, an entry forgotten.
    """
    _check_log_explains(unet, log)
    folder = Path(folder)
    write_json(folder / CONFIG, config_of(unet))
    write_json(folder / LOG, log)
    aside = (folder / WEIGHTS).with_suffix(".part")
    save_file({name: tensor.contiguous() for name, tensor in unet.state_dict().items()}, aside)
    aside.replace(folder / WEIGHTS)


def load(folder: Path, dtype: torch.dtype | None = None) -> tuple[VideoUNet, Log]:
    """The network saved in ``folder``, in ``dtype`` (as stored when None), and its log.

    Errors: IntegrityError for a missing file, or a tensor that is missing, extra or misshapen, by name.
    """
    folder = Path(folder)
    log = _read(folder / LOG)
    return _load(folder / WEIGHTS, _read(folder / CONFIG), log, dtype), log


def load_base(folder: Path, dtype: torch.dtype = torch.float32) -> VideoUNet:
    """An unedited network from a folder in diffusers layout, half-precision files included. Errors: as ``load``."""
    folder = Path(folder)
    weights = folder / (WEIGHTS if (folder / WEIGHTS).is_file() else WEIGHTS_FP16)
    return _load(weights, _read(folder / CONFIG), [], dtype)


def rebuild(config: dict, log: Log) -> VideoUNet:
    """A network with fresh weights and the edits of ``log`` in their order.

    Errors: SurgeryError for an edit that the ones before it do not allow.
    """
    unet = VideoUNet.from_config(config)
    for entry in log:
        replay(unet, entry)
    return unet


def replay(unet: VideoUNet, entry: dict) -> None:
    """Make one logged edit's structure in place; the weights are for a checkpoint to bring."""
    match entry:
        case {"op": cross_attention.OP}:
            cross_attention.apply(unet)
        case {"op": temporal_multiscale.OP, "down": down}:
            temporal_multiscale.apply(unet, down)
        case {"op": temporal_pruning.OP, "keep": keep}:
            temporal_pruning.remove(unet, keep)
        case {"op": channel_funnel.OP, "fun_factor": fun_factor, "where": where}:
            channel_funnel.narrow(unet, fun_factor, where)
        case _:
            ops = (cross_attention.OP, temporal_multiscale.OP, temporal_pruning.OP, channel_funnel.OP)
            raise SurgeryError("The log holds an edit nobody knows", got=entry, allowed=", ".join(ops), where=LOG)


def _load(weights: Path, config: dict, log: Log, dtype: torch.dtype | None) -> VideoUNet:
    with torch.device("meta"):
        unet = rebuild(config, log)
    _check_tensors(weights, {name: tuple(tensor.shape) for name, tensor in unet.state_dict().items()})
    tensors = load_file(weights)
    if dtype is not None:
        tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    unet.load_state_dict(tensors, strict=True, assign=True)
    return unet.eval()


def _check_tensors(weights: Path, expected: dict[str, tuple[int, ...]]) -> None:
    if not weights.is_file():
        raise IntegrityError("The network's weights are missing", got=str(weights), allowed="a safetensors file")
    with safe_open(weights, framework="pt") as file:
        found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    wrong = [f"missing {name}" for name in expected.keys() - found.keys()]
    wrong += [f"extra {name}" for name in found.keys() - expected.keys()]
    both = expected.keys() & found.keys()
    wrong += [f"{name} is {found[name]}, not {expected[name]}" for name in both if found[name] != expected[name]]
    if wrong:
        shown = "; ".join(sorted(wrong)[:8]) + (f"; and {len(wrong) - 8} more" if len(wrong) > 8 else "")
        raise IntegrityError(
            "The weights do not fit the configuration and its edits",
            got=shown,
            allowed=f"exactly the {len(expected)} tensors of the edited network",
            where=str(weights),
        )


def _check_log_explains(unet: VideoUNet, log: Log) -> None:
    with torch.device("meta"):
        expected = _outline(rebuild(config_of(unet), log))
    found = _outline(unet)
    if found == expected:
        return
    names = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    name = names[0]
    raise SurgeryError(
        "The network is not what its log of edits makes",
        got=f"{name or 'the network'}: {found.get(name, 'nothing')}",
        allowed=str(expected.get(name, "nothing")),
        where="bake gates and merge funnels before saving, and pass every log entry in order",
    )


def _outline(unet: VideoUNet) -> dict[str, tuple]:
    """Module name → kind, own settings and shapes of its own tensors: two networks of one outline load each other."""
    return {
        name: (
            type(module).__name__,
            module.extra_repr(),
            tuple((key, tuple(tensor.shape)) for key, tensor in module.named_parameters(recurse=False)),
        )
        for name, module in unet.named_modules()
    }


def _read(path: Path) -> dict | list:
    if not path.is_file():
        raise IntegrityError("A file of the network is missing", got=str(path), allowed="a folder in diffusers layout")
    return json.loads(path.read_text(encoding="utf-8"))
