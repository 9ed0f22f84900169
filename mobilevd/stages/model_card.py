"""The model card of a bundle, written from what the run measured and from nothing else.

**Keeps** a card of an accepted model holds no number that was not measured (``tests/stages/test_register.py``).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import yaml

from mobilevd.artifacts import StageRecord
from mobilevd.errors import IntegrityError
from mobilevd.params import Recipe
from mobilevd.stages.gate import merge
from mobilevd.video import sample_data

LADDER = ("finetune", "distill", "prune", "funnel")
Rows = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Facts:
    """What the card tells besides the records: where the base came from, under which terms, and which code ran."""

    base: str
    base_digest: str
    base_licence: str
    git_commit: str


def write(recipe: Recipe, inputs: dict[str, StageRecord], facts: Facts) -> str:
    """The card as Markdown. Errors: IntegrityError for a figure that is missing, or that is NaN in a passed run."""
    figures, verdict = merge(inputs), inputs["gate"].facts["verdict"]
    page = _Page(strict=verdict == "passed")
    clip = recipe.clip
    page.add(f"---\npipeline_tag: image-to-video\nlicense: other\n---\n\n# {recipe.name}: one image in, one clip out")
    page.add(
        f"A video network that animates an image: {clip.frames} frames at {clip.fps:g} per second, "
        f"{clip.width}x{clip.height} pixels, in **one** evaluation that starts {_start(recipe)}. "
        f"It was made from the base `{facts.base}` by low-resolution finetuning, adversarial distillation, temporal "
        "multiscaling and block pruning, channel funnels "
        f"(Mobile Video Diffusion, arXiv 2412.07583), then quantized. Its gates: **{verdict}**."
    )
    page.add('```python\nMobileVDPipeline.from_pretrained("this folder")(image).frames  # from mobilevd.pipeline\n```')
    page.table("Gates", inputs["gate"].tables["gates"], ("metric", "value", "relation", "limit", "passed", "reason"))
    page.table("Scores on held-out clips", inputs["evaluate"].tables["scores"])
    page.table("Cost of one evaluation", costs(inputs))
    page.figures("Quantized network", figures, "quantize.")
    page.figures("Timing", figures, "profile.", "Figures under `host-cpu` are the training machine's, not a phone's.")
    page.add(_data(recipe, inputs["prepare"].data_md5, figures, page))
    page.add(f"## Base\n`{facts.base}`, sha256 `{facts.base_digest}`. Licence: {facts.base_licence}")
    page.add("## Known limits\n" + "\n".join(f"- {line}" for line in _limits(recipe, figures, page)))
    page.add(
        f"## Lineage\nRecipe `{recipe.digest}`, data md5 `{inputs['prepare'].data_md5}`, code `{facts.git_commit}`; "
        "every stage's digests in `lineage.json`, every file's in `manifest.json`."
    )
    return "\n\n".join(page.parts) + "\n"


def costs(inputs: dict[str, StageRecord]) -> list[dict[str, Any]]:
    """One row for the base and per stage that changes the network. Errors: IntegrityError when one was not counted."""
    figures = merge(inputs)
    rows = [_cost_row("base", figures, "finetune.{}_before", "prune.blocks_before")]
    for stage in LADDER:
        blocks = "prune.blocks_after" if stage in ("prune", "funnel") else "prune.blocks_before"
        rows.append(_cost_row(stage, figures, stage + ".{}", blocks))
    return rows


def licence(base: Path) -> str:
    """What the base's own card says in its front matter, or that it says nothing."""
    card = base / "README.md"
    pieces = card.read_text(encoding="utf-8").split("---", 2) if card.is_file() else []
    told = yaml.safe_load(pieces[1]) if len(pieces) == 3 and not pieces[0].strip() else {}
    named = told.get("license_name") or told.get("license") if isinstance(told, dict) else None
    return f"{named}, as its card says." if named else "not stated beside it; ask its publisher before you share this."


def _start(recipe: Recipe) -> str:
    around = "from the image, repeated, under noise" if recipe.distill.still_start else "from noise alone"
    return f"{around} (σ {recipe.distill.start_sigma:g})"


class _Page:
    def __init__(self, strict: bool):
        self.parts: list[str] = []
        self._strict = strict

    def add(self, part: str) -> None:
        self.parts.append(part)

    def table(self, heading: str, rows: Rows, keys: Sequence[str] | None = None) -> None:
        keys = list(keys or dict.fromkeys(key for row in rows for key in row))
        lines = [keys, ["---"] * len(keys), *([self.cell(row.get(key)) for key in keys] for row in rows)]
        self.add(f"## {heading}\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))

    def figures(self, heading: str, figures: dict[str, float], prefix: str, note: str = "") -> None:
        rows = [{"figure": name, "value": value} for name, value in sorted(figures.items()) if name.startswith(prefix)]
        if rows:
            self.table(heading, rows)
            self.parts[-1] += f"\n\n{note}" if note else ""

    def cell(self, value: Any) -> str:
        """A value as the card shows it. Errors: IntegrityError for a number that nobody measured, where strict."""
        if isinstance(value, Real) and not isinstance(value, bool):
            if math.isfinite(value):
                return f"{value:.5g}"
            if self._strict:
                raise IntegrityError(
                    "The card would hold a number nobody measured", got=value, allowed="finite figures"
                )
            return "not measured"
        return "–" if value is None else str(value).replace("|", "\\|").replace("\n", " ")


def _cost_row(name: str, figures: dict[str, float], pattern: str, blocks: str) -> dict[str, Any]:
    row = {key: _figure(figures, pattern.format(key)) for key in ("tflops", "params_m")}
    return {"stage": name} | row | {"temporal_blocks": int(_figure(figures, blocks))}


def _figure(figures: dict[str, float], name: str) -> float:
    if name not in figures:
        raise IntegrityError("A figure was not measured", got=name, allowed="the record of the stage that counts it")
    return figures[name]


def _data(recipe: Recipe, md5: str, figures: dict[str, float], page: _Page) -> str:
    train, held_out = (page.cell(_figure(figures, f"prepare.{side}_clips")) for side in ("train", "validation"))
    source = f"`{recipe.prepare.data}`, md5 `{md5}`"
    head = f"## Data\n{source}: {train} clips to train on, {held_out} held out."
    if md5 != sample_data.IDENTITY:
        return f"{head} Licence: that of the videos in this folder, which their owner knows."
    files = [f"- `{s.path}`: {s.origin}" for samples in sample_data.FILES.values() for s in samples]
    return f"{head} The project's sample set, by file:\n\n" + "\n".join(files)


def _limits(recipe: Recipe, figures: dict[str, float], page: _Page) -> list[str]:
    clip = recipe.clip
    student, teacher = (_figure(figures, f"{name}.fvd") for name in ("student", "teacher"))
    motion = page.cell(_figure(figures, "student.motion_ratio"))
    guided = 2.0 * recipe.evaluate.teacher_steps  # to the end, as every evaluation that does not tell
    evaluations = figures.get("teacher.evaluations", guided)
    return [
        f"One step: no guidance and no second look; FVD {page.cell(student)} where its teacher reaches "
        f"{page.cell(teacher)} with {evaluations:.0f} evaluations.",
        f"Motion: clips made from held-out first frames move {motion} times as much as the real ones; "
        "nothing but the image, the seed and the motion bucket says how.",
        f"Size: {clip.width}x{clip.height} and {clip.frames} frames only; other images are scaled and cropped.",
        "FVD over few clips compares runs of one data set with each other, not with published figures.",
    ]
