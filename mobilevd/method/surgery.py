"""The ordered log of edits: what was done to a network, so that any checkpoint can be rebuilt and loaded strictly.

**Changes** nothing by itself; replays the mechanisms of this folder. **Keeps** every bit of a saved and loaded network;
refuses a tensor that is not the one saved, by its name (``tests/method/test_surgery.py``, ``test_edit_orders.py``).
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from mobilevd.artifacts import file_sha256, write_json
from mobilevd.errors import IntegrityError, SurgeryError
from mobilevd.method import (
    channel_funnel,
    conv_funnel,
    cross_attention,
    spatial_multiscale,
    still_start,
    temporal_multiscale,
    temporal_pruning,
    truncated_svd,
)
from mobilevd.svd import weights
from mobilevd.svd.unet import VideoUNet, config_of

CONFIG = "unet/config.json"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
TENSORS = "unet/tensors.json"
LOG = "unet/surgery.json"

Log = list[dict]


def save(unet: VideoUNet, log: Log, folder: Path) -> None:
    """Write configuration, log, weights and what each tensor is (dtype, shape, sha256) under ``folder``/unet.

    The weights' header tells which configuration and log they belong to, by sha256.
    Errors: SurgeryError when ``log`` is not the edits made: a gate not baked, a funnel not merged, an entry forgotten.
    """
    _check_log_explains(unet, log)
    folder = Path(folder)
    write_json(folder / CONFIG, config_of(unet))
    write_json(folder / LOG, log)
    tensors = {name: tensor.contiguous() for name, tensor in unet.state_dict().items()}
    write_json(folder / TENSORS, weights.describe(tensors))
    aside = (folder / WEIGHTS).with_suffix(".part")
    save_file(tensors, aside, weights.one_entry(_digests(folder)))
    aside.replace(folder / WEIGHTS)


def load(folder: Path, dtype: torch.dtype | None = None) -> tuple[VideoUNet, Log]:
    """The network saved in ``folder``, in ``dtype`` (as stored when None), and its log.

    Errors: IntegrityError as ``check``; SurgeryError for a log that its own edits do not allow.
    """
    folder = Path(folder)
    tensors = _checked(folder)
    log = _read(folder / LOG)
    with torch.device("meta"):
        unet = rebuild(_read(folder / CONFIG), log)
    weights.check_shapes(tensors, unet.state_dict(), folder / WEIGHTS)
    if dtype is not None:
        tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    unet.load_state_dict(tensors, strict=True, assign=True)
    return unet.eval(), log


def check(folder: Path) -> None:
    """Compare the network in ``folder`` with what was written down of it, tensor by tensor, when it was saved.

    Errors: IntegrityError for a file that is missing or changed, or a tensor that is missing, extra, cut off or
    changed, by name.
    """
    _checked(Path(folder))


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
        case {"op": temporal_multiscale.OP, "down": str(down)}:
            temporal_multiscale.apply(unet, down)
        case {"op": spatial_multiscale.OP, "down": str(down)}:
            spatial_multiscale.apply(unet, down)
        case {"op": still_start.OP, "sigma": int() | float() as sigma, "image_scale": int() | float() as image_scale}:
            still_start.apply(unet, sigma, image_scale)
        case {"op": temporal_pruning.OP, "keep": list(keep)}:
            temporal_pruning.remove(unet, keep)
        case {"op": channel_funnel.OP, "fun_factor": int() | float() as fun_factor, "where": str(where)}:
            channel_funnel.narrow(unet, fun_factor, where)
        case {"op": channel_funnel.OP, "ranks": dict(ranks)}:
            channel_funnel.narrow_to(unet, ranks)
        case {"op": conv_funnel.OP, "fun_factor": int() | float() as fun_factor, "where": str(where)}:
            conv_funnel.narrow(unet, fun_factor, where)
        case {"op": truncated_svd.OP, "fun_factor": int() | float() as fun_factor, "where": str(where)}:
            truncated_svd.narrow(unet, fun_factor, where)
        case _:
            edits = (cross_attention, temporal_multiscale, spatial_multiscale, still_start, temporal_pruning)
            ops = [edit.OP for edit in (*edits, channel_funnel, conv_funnel, truncated_svd)]
            raise SurgeryError("The log holds an edit nobody knows", got=entry, allowed=", ".join(ops), where=LOG)


def _check_log_explains(unet: VideoUNet, log: Log) -> None:
    with torch.device("meta"):
        expected = outline(rebuild(config_of(unet), log))
    found = outline(unet)
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


def outline(unet: VideoUNet) -> dict[str, tuple]:
    """Module name → kind, own settings and shapes of its own tensors: two networks of one outline load each other."""
    return {
        name: (
            type(module).__name__,
            module.extra_repr(),
            tuple((key, tuple(tensor.shape)) for key, tensor in module._parameters.items() if tensor is not None),
        )
        for name, module in unet.named_modules()
    }


def _checked(folder: Path) -> dict[str, torch.Tensor]:
    path, told = folder / WEIGHTS, _read(folder / TENSORS)
    tensors = weights.read(path)
    weights.check_digests(tensors, weights.description(told, folder / TENSORS), path)
    digests, header = _digests(folder), weights.header(path)
    if header and (wrong := [name for name in digests if header.get(name) != digests[name]]):
        got = ", ".join(str(folder / name) for name in wrong)
        raise IntegrityError("The weights belong to another configuration or log", got=got, where=str(path))
    return tensors


def _digests(folder: Path) -> dict[str, str]:
    return {name: file_sha256(_found(folder / name)) for name in (CONFIG, LOG)}


def _read(path: Path) -> dict | list:
    text = _found(path).read_bytes()
    try:
        return json.loads(text)
    except ValueError:
        raise IntegrityError(
            "A file of the network cannot be read", got=str(path), allowed="as surgery.save wrote it"
        ) from None


def _found(path: Path) -> Path:
    if not path.is_file():
        raise IntegrityError("A file of the network is missing", got=str(path), allowed="as surgery.save wrote it")
    return path
