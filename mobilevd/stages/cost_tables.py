"""The rows of ``costs.py`` for people: tables of a terminal, 80 columns wide, and those of the documents.

**Keeps** the documents show what is printed (``tests/test_counts.py``); no word is broken in a terminal of 80 columns
(``tests/stages/test_cost_tables.py``).
"""

from textwrap import fill

from mobilevd.stages.costs import RECIPES

LADDER = {
    "row": "row (cumulative)",
    "nfe": "evals",
    "paper_tflops": "paper\nTFLOPs",
    "tflops": "our\nTFLOPs",
    "clip_tflops": "TFLOPs\na clip",
    "params_m": "M\nparams",
    "paper_fvd_7fps": "paper\nFVD",
}
AROUND = {  # with the networks around the UNet
    "row": "TFLOPs",
    "nfe": "evals",
    "tflops": "one\neval",
    "image encoder, 1 photograph, tflops": "image\nencoder",
    "autoencoder, encode 1 photograph, tflops": "VAE\nencode",
    "autoencoder, decode 14 frames, tflops": "VAE\ndecode",
    "clip_tflops": "a clip",
}
ABLATIONS = {
    "row": "row",
    "recipe": f"{RECIPES}/",
    "paper_tflops": "paper\nTFLOPs",
    "tflops": "our\nTFLOPs",
    "params_m": "M\nparams",
    "paper_fvd_25fps": "paper\nFVD",
}
MODEL = {"row": "network", "size": "clip", "latents": "latents", "tflops": "TFLOPs", "params_m": "M params"}
WIDE, NARROW = 23, 14  # letters of a row's name that leave room for the figures


def table(rows: list[dict]) -> list[dict]:
    """What fits of the rows of ladder, ablations or a model; a recipe's name tells its table of the paper, too."""
    columns = next(columns for columns in (AROUND, LADDER, ABLATIONS, MODEL) if columns.keys() <= rows[0].keys())
    width = NARROW if columns is ABLATIONS else WIDE
    return [{heading: _short(row[key], width) for key, heading in columns.items()} for row in rows]


def split_table(rows: list[dict]) -> list[dict]:
    """Each row's TFLOPs and 10^6 parameters by kind of layer, a line each, its totals last."""
    return [
        {
            "row": row["row"],
            "layers": "\n".join([*row["split"], "total"]),
            "TFLOPs": _lines([*(part["flops"] / 1e12 for part in row["split"].values()), row["tflops"]], 3),
            "M params": _lines([*(part["params"] / 1e6 for part in row["split"].values()), row["params_m"]], 1),
        }
        for row in rows
    ]


def ladder_markdown(rows: list[dict]) -> str:
    """The table of the README, made of ``ladder_rows``."""
    head = ("row (cumulative)", "file in `mobilevd/`", "test in `tests/`", "paper TFLOPs", "ours", "evaluations")
    body = [
        (
            row["row"],
            f"`{row['file'].removeprefix('mobilevd/')}`",
            f"`{row['test'].removeprefix('tests/')}`",
            f"{row['paper_tflops']:.2f}",
            f"{row['tflops']:.2f}",
            str(row["nfe"]),
            f"{row['clip_tflops']:.1f}",
            f"{row['params_m']:.1f}",
            str(row["paper_fvd_7fps"]),
        )
        for row in rows
    ]
    return _markdown((*head, "ours, a clip", "params, M", "paper FVD, 7 fps"), body)


def ablations_markdown(rows: list[dict]) -> str:
    """The table of docs/paper_map.md, made of ``ablation_rows``."""
    body = [
        (
            row["table"],
            row["row"],
            f"`{row['recipe']}`" if row["recipe"] else "–",
            "–" if row["paper_tflops"] is None else str(row["paper_tflops"]),
            f"{row['tflops']:.3f}",
            f"{row['params_m']:.1f}",
            str(row["paper_fvd_25fps"]),
        )
        for row in rows
    ]
    return _markdown(("ablation", "row", "recipe", "paper TFLOPs", "ours", "params, M", "paper FVD, 25 fps"), body)


def _short(value, width: int):
    """Text in lines that end between words."""
    if not isinstance(value, str):
        return value
    named = value.removeprefix(f"{RECIPES}/").removesuffix(".yaml")
    return fill(named, width, break_long_words=False, break_on_hyphens=False)


def _lines(values: list[float], decimals: int) -> str:
    return "\n".join(f"{value:.{decimals}f}" for value in values)


def _markdown(head: tuple[str, ...], body: list[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ("---",) * len(head), *body)).replace(
        " --- ", "---"
    )
