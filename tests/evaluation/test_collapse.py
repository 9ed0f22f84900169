"""Collapsed students are refused by the gate that names their fault; real clips encoded at another quality pass."""

import io
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from movies import texture
from PIL import Image

from mobilevd import params
from mobilevd.evaluation import motion
from mobilevd.evaluation.gates import judge
from mobilevd.settings import Clip, Gate
from mobilevd.video import clips, sample_data

ROOT = Path(__file__).resolve().parents[2]
N, FRAMES, SIDE = 6, 14, 64
MEASURED_HERE = ("motion_ratio", "first_frame_copy_rate", "blank_share", "colour_entropy_ratio", "loop_score")
MEASURED_HERE += ("input_adherence", "flicker_ratio", "nan_share")


@pytest.fixture(scope="module")
def real() -> torch.Tensor:
    """Large textures that slide through the frame, each at its own speed."""
    videos = []
    for seed in range(N):
        picture = texture(seed, 4 * SIDE, 8 * SIDE)
        at = [(1 + seed % 3) * f for f in range(FRAMES)]
        videos.append(np.stack([picture[:SIDE, x : x + SIDE] for x in at]))
    return torch.from_numpy(np.stack(videos)).permute(0, 1, 4, 2, 3).contiguous()


def encoded(video: torch.Tensor, quality: int) -> torch.Tensor:
    """Every frame through JPEG."""
    frames = []
    for frame in video.flatten(0, 1).permute(0, 2, 3, 1).numpy():
        stream = io.BytesIO()
        Image.fromarray(frame).save(stream, "JPEG", quality=quality)
        frames.append(np.asarray(Image.open(stream)))
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).reshape(video.shape)


def flickering(video: torch.Tensor) -> torch.Tensor:
    brighter = 70 * (torch.arange(FRAMES) % 3 == 1).view(1, -1, 1, 1, 1)
    return (video.int() + brighter).clamp(0, 255).to(torch.uint8)


COLLAPSES: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]] = {
    "copies the first frame": (lambda real: real[:, :1].expand_as(real).contiguous(), "first_frame_copy_rate"),
    "emits one colour": (lambda real: torch.full_like(real, 128), "colour_entropy_ratio"),
    "not a number, shown as black": (lambda real: torch.zeros_like(real), "blank_share"),
    "loops two frames": (lambda real: real[:, [0, 7] * (FRAMES // 2)], "loop_score"),
    "ignores its image": (lambda real: real.roll(1, dims=0), "input_adherence"),
    "one clip for all": (lambda real: real[:1].expand_as(real).contiguous(), "input_adherence"),
    "flickers": (flickering, "flicker_ratio"),
}


def gates_of(recipe: str) -> list[Gate]:
    """The recipe's gates on the student's figures that need no feature network."""
    gates = params.load(ROOT / recipe).gates
    return [gate for gate in gates if gate.metric.removeprefix("student.") in MEASURED_HERE]


def figures(video: torch.Tensor, real: torch.Tensor) -> dict[str, float]:
    return {f"student.{name}": v for name, v in motion.figures(video, real).items()} | {"student.nan_share": 0.0}


@pytest.mark.parametrize("recipe", ["params.yaml", "recipes/mobilevd.yaml"])
@pytest.mark.parametrize("name", COLLAPSES)
def test_collapsed_student_is_refused_with_its_own_reason(real, name, recipe):
    make, told_by = COLLAPSES[name]
    verdict = judge(gates_of(recipe), figures(make(real), real))
    failed = {row.metric: row.reason for row in verdict.rows if not row.passed}
    assert not verdict.passed
    assert f"student.{told_by}" in failed, failed
    assert " is above " in failed[f"student.{told_by}"] or " is below " in failed[f"student.{told_by}"]


@pytest.mark.parametrize("recipe", ["params.yaml", "recipes/mobilevd.yaml"])
@pytest.mark.parametrize("quality", [95, 60])
def test_real_clips_at_another_quality_pass(real, quality, recipe):
    gates = gates_of(recipe)
    assert len(gates) == len(MEASURED_HERE)
    verdict = judge(gates, figures(encoded(real, quality), real))
    assert verdict.passed, [row.reason for row in verdict.rows if not row.passed]


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> torch.Tensor:
    """The first clip of every film of the sample set."""
    brought = [p for p in sample_data.bring(tmp_path_factory.mktemp("data")) if p.parent.name == "videos"]
    clip = Clip(frames=FRAMES, width=256, height=128)
    return torch.stack([next(clips.windows(path, clip, at_most=1)) for path in brought])


def test_films_at_another_quality_pass_and_collapsed_ones_do_not(films):
    gates = gates_of("params.yaml")
    for quality in (95, 60):
        verdict = judge(gates, figures(encoded(films, quality), films))
        assert verdict.passed, [row.reason for row in verdict.rows if not row.passed]
    for name, (make, told_by) in COLLAPSES.items():
        failed = {row.metric for row in judge(gates, figures(make(films), films)).rows if not row.passed}
        assert f"student.{told_by}" in failed, (name, failed)


def test_loop_of_any_period_is_told_and_steady_motion_is_none(real):
    for period in (2, 3, 5):
        looped = real[:, [f % period for f in range(FRAMES)]]
        assert motion.loop_score(looped).tolist() == pytest.approx([1.0] * N)
    assert motion.loop_score(real).max() < 0.2
    assert motion.loop_score(real[:, :1].expand_as(real)).tolist() == [0.0] * N


def test_adherence_is_one_for_the_image_zero_for_an_average_and_below_for_anothers(real):
    images = real[:, 0]
    assert motion.input_adherence(real, images).tolist() == pytest.approx([1.0] * N)
    assert motion.input_adherence(real.roll(1, dims=0), images).mean() < 0.05
    half = (0.5 * real.float() / 255 + 0.5 * real.roll(1, dims=0).float() / 255).clamp(0, 1)
    assert 0.2 < motion.input_adherence(half, images.float() / 255).mean() < 0.8


def test_one_figure_of_every_kind_is_finite_for_every_collapse(real):
    for make, _ in COLLAPSES.values():
        assert all(map(math.isfinite, figures(make(real), real).values()))
