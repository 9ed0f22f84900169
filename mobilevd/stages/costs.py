"""What networks cost, as rows of a table: the paper's ladder beside our count, or one network on disk.

**Source** paper Table 1 · **Keeps** nothing is run and no weights are read (``tests/stages/test_costs.py``).
"""

import json
from pathlib import Path

import torch

from mobilevd.errors import IntegrityError, MobileVDError
from mobilevd.evaluation import cost
from mobilevd.method import surgery

EVALUATIONS = {  # network evaluations of one clip, paper Table 1: 25 steps x 2 passes until it is distilled
    "SVD 1024x576": 50,
    "SVD 512x256": 50,
    "+ optimized cross-attention": 50,
    "+ temporal multiscaling": 1,
    "+ temporal block pruning": 1,
    "+ channel funneling": 1,
}
SVD_DOWNSCALE = 8


def ladder_rows() -> list[dict]:
    """The paper's rows at SVD's full size: TFLOPs of one evaluation (paper's, ours) and 10^6 parameters."""
    return [
        {
            "row": rung.name,
            "size": "1024x576" if "1024x576" in rung.name else "512x256",
            "nfe": EVALUATIONS[rung.name],
            "paper_tflops": rung.paper_tflops,
            "tflops": rung.cost.tflops,
            "params_m": rung.cost.params_m,
        }
        for rung in cost.ladder()
    ]


def model_row(folder: Path, width: int, height: int) -> dict:
    """One evaluation of the network in ``folder`` (which holds ``unet/``, or is it) on a clip of that many pixels.

    A latent covers as many pixels as the ``vae/`` beside it says, 8 x 8 without one; the row tells the latents' shape.
    Errors: IntegrityError when there is no network; MobileVDError when the latents do not divide the clip.
    """
    unet = _unet_folder(Path(folder))
    log = _read(unet / "surgery.json") if (unet / "surgery.json").is_file() else []
    with torch.device("meta"):
        network = surgery.rebuild(_read(unet / "config.json"), log)
    side = _downscale(unet.parent / "vae" / "config.json")
    if width <= 0 or height <= 0 or width % side or height % side:
        allowed = f"multiples of {side} pixels"
        raise MobileVDError("The clip has no whole latents", got=f"{width}x{height}", allowed=allowed, where="--width")
    latents = (network.config.num_frames, network.config.out_channels, height // side, width // side)
    counted = cost.count(network, (1, *latents))
    return {
        "row": Path(folder).resolve().name,
        "size": f"{width}x{height}",
        "latents": " x ".join(str(n) for n in latents),
        "tflops": counted.tflops,
        "params_m": counted.params_m,
    }


def _unet_folder(folder: Path) -> Path:
    for candidate in (folder / "unet", folder):
        if (candidate / "config.json").is_file():
            return candidate.resolve()
    raise IntegrityError(
        "There is no network here", got=str(folder), allowed="a folder with unet/config.json, or unet/ itself"
    )


def _downscale(config: Path) -> int:
    if not config.is_file():
        return SVD_DOWNSCALE
    values = _read(config)
    return round((values["in_channels"] / 3) ** 0.5) * 2 ** (len(values["block_out_channels"]) - 1)


def _read(path: Path) -> dict | list:
    return json.loads(path.read_text(encoding="utf-8"))
