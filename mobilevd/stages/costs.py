"""What networks cost, as rows of data: the paper's ladder and ablations beside our count, or one network on disk.

**Source** paper Tables 1, 3–6 · **Keeps** nothing is run and no weights are read (``tests/stages/test_costs.py``).
"""

import json
from pathlib import Path

import torch

from mobilevd.errors import IntegrityError, MobileVDError
from mobilevd.evaluation import cost
from mobilevd.evaluation.ablations import ABLATIONS
from mobilevd.evaluation.cost import KINDS, LADDER, Cost
from mobilevd.evaluation.encoder_cost import encodings
from mobilevd.method import surgery
from mobilevd.svd import base as bases

SVD_DOWNSCALE = 8
PREPARED = "prepare/record.json"
RECIPES = "recipes/ablations"


def ladder_rows(with_encoders: bool = False) -> list[dict]:
    """The paper's Table 1 at SVD's full size: TFLOPs of one evaluation and of a clip, 10^6 parameters.

    ``clip_tflops`` is nfe times one evaluation, guidance passes counted; ``with_encoders`` adds autoencoder and image
    encoder to it, and names each in a column of its own.
    """
    rows = []
    for rung in LADDER:
        around = {f"{item.row}, tflops": item.tflops for item in encodings(rung.size)} if with_encoders else {}
        rows.append(
            {
                "row": rung.row,
                "size": f"{rung.size[0]}x{rung.size[1]}",
                "nfe": rung.nfe,
                "paper_tflops": rung.paper_tflops,
                **_figures(rung.cost),
                "clip_tflops": rung.nfe * rung.cost.tflops + sum(around.values()),
                **around,
                "paper_fvd_7fps": rung.paper_fvd,
                "file": rung.file,
                "test": rung.test,
                "split": _split(rung.cost),
            }
        )
    return rows


def ablation_rows() -> list[dict]:
    """The paper's ablations: table → recipe → the paper's TFLOPs and FVD (25 fps) → our count."""
    return [
        {
            "table": item.table,
            "row": item.row,
            "recipe": f"{RECIPES}/{item.recipe}.yaml" if item.recipe else None,
            "paper_tflops": item.paper_tflops,
            **_figures(item.cost),
            "miss": item.miss,
            "paper_fvd_25fps": item.paper_fvd,
            "split": _split(item.cost),
        }
        for item in ABLATIONS
    ]


def data_rows(rows: list[dict], split: bool = False, with_encoders: bool = False) -> list[dict]:
    """The rows for JSON: of the ladder row, size, nfe, paper_tflops, tflops and params_m, and what was asked for."""
    left_out = {"file", "test", "paper_fvd_7fps", *(() if split else ("split",))}
    left_out |= set() if with_encoders else {"clip_tflops"}
    return [{key: value for key, value in row.items() if key not in left_out} for row in rows]


def model_row(folder: Path, width: int, height: int, side: int | None = None) -> dict:
    """One evaluation of the network in ``folder`` (which holds ``unet/``, or is it) on a clip of that many pixels.

    A latent covers ``side`` x ``side`` pixels, else what ``told_downscale`` finds, else SVD's 8 x 8; the row tells the
    latents' shape.
    Errors: IntegrityError when there is no network; MobileVDError when the latents do not divide the clip.
    """
    unet = _unet_folder(Path(folder))
    log = _read(unet / "surgery.json") if (unet / "surgery.json").is_file() else []
    with torch.device("meta"):
        network = surgery.rebuild(_read(unet / "config.json"), log)
    side = side or told_downscale(folder) or SVD_DOWNSCALE
    if width <= 0 or height <= 0 or width % side or height % side:
        allowed = f"multiples of {side} pixels"
        raise MobileVDError("The clip has no whole latents", got=f"{width}x{height}", allowed=allowed, where="--width")
    latents = (network.config.num_frames, network.config.out_channels, height // side, width // side)
    counted = cost.count(network, (1, *latents))
    return {
        "row": Path(folder).resolve().name,
        "size": f"{width}x{height}",
        "latents": " x ".join(str(n) for n in latents),
        **_figures(counted),
        "split": _split(counted),
    }


def _figures(counted: Cost) -> dict[str, float]:
    return {"tflops": counted.tflops, "params_m": counted.params_m}


def _split(counted: Cost) -> dict[str, dict[str, int]]:
    """Kind → operations and parameters, as whole numbers: they add up exactly."""
    return {kind: {"flops": counted.flops[kind], "params": counted.params[kind]} for kind in KINDS}


def _unet_folder(folder: Path) -> Path:
    for candidate in (folder / "unet", folder):
        if (candidate / "config.json").is_file():
            return candidate.resolve()
    raise IntegrityError(
        "There is no network here", got=str(folder), allowed="a folder with unet/config.json, or unet/ itself"
    )


def told_downscale(folder: Path) -> int | None:
    """Pixels a latent covers on each axis, by the ``vae/`` beside the network, else by the base of the run.

    None where neither is at hand: a base at the hub is not asked for.
    """
    network = _unet_folder(Path(folder)).parent
    config = network / "vae" / "config.json"
    if config.is_file():
        return downscale(config)
    base = _base_of_run(network.parent.parent)  # <run>/<stage>/network
    return downscale(base / "vae" / "config.json") if base else None


def downscale(config: Path) -> int:
    """Pixels a latent covers on each axis, by an autoencoder's configuration; SVD's 8 without one."""
    if not config.is_file():
        return SVD_DOWNSCALE
    values = _read(config)
    return round((values["in_channels"] / 3) ** 0.5) * 2 ** (len(values["block_out_channels"]) - 1)


def _base_of_run(run: Path) -> Path | None:
    """The folder of the base that the run's prepare names, where it is on this machine."""
    record = run / PREPARED
    base = _read(record)["facts"].get("base") if record.is_file() else None
    return bases.load(base).folder if base and bases.is_here(base) else None


def _read(path: Path) -> dict | list:
    return json.loads(path.read_text(encoding="utf-8"))
