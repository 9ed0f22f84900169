"""Motion figures on clips whose motion is known."""

import math

import pytest
import torch

from mobilevd.errors import DataError
from mobilevd.evaluation import motion


def ramp(frames: int = 5, step: float = 0.1, n: int = 2) -> torch.Tensor:
    """Every pixel brightens by ``step`` a frame, from 0."""
    levels = step * torch.arange(frames, dtype=torch.float32)
    return levels.view(1, frames, 1, 1, 1).expand(n, frames, 3, 4, 6).contiguous()


def frozen(n: int = 2) -> torch.Tensor:
    first = torch.rand(n, 1, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    return first.expand(-1, 5, -1, -1, -1).contiguous()


def test_energy_is_the_mean_step():
    torch.testing.assert_close(motion.energy(ramp(step=0.1)), torch.full((2,), 0.1))


def test_energy_counts_each_clip_alone():
    mixed = torch.cat([frozen(1), ramp(n=1)])
    torch.testing.assert_close(motion.energy(mixed), torch.tensor([0.0, 0.1]))


def test_energy_ratio_is_generated_over_real():
    assert motion.energy_ratio(ramp(step=0.05, n=1), ramp(step=0.2, n=3)) == pytest.approx(0.25)
    assert motion.energy_ratio(frozen(), ramp()) == 0.0


def test_a_ratio_to_clips_that_stand_still_is_refused():
    with pytest.raises(DataError, match="do not move"):
        motion.energy_ratio(ramp(), frozen())


def test_a_frozen_clip_is_all_copies_and_a_moving_one_is_none():
    assert motion.first_frame_copy_rate(frozen()).tolist() == [1.0, 1.0]
    assert motion.first_frame_copy_rate(ramp()).tolist() == [0.0, 0.0]


def test_copies_are_counted_within_the_tolerance():
    drifting = ramp(frames=5, step=1 / 255)  # frames 1 and 2 lie within two levels, 3 and 4 do not
    assert motion.first_frame_copy_rate(drifting, tolerance=2.01 / 255).tolist() == [0.5, 0.5]


def test_distance_to_the_first_frame_grows_along_a_ramp():
    torch.testing.assert_close(motion.first_frame_distance(ramp())[0], torch.tensor([0.1, 0.2, 0.3, 0.4]))


def test_steady_change_has_no_flicker_and_alternation_has():
    torch.testing.assert_close(motion.flicker(ramp()), torch.zeros(2), atol=1e-6, rtol=0)
    alternating = torch.tensor([0.0, 1.0, 0.0, 1.0]).view(1, 4, 1, 1, 1).expand(1, 4, 3, 4, 6).contiguous()
    torch.testing.assert_close(motion.flicker(alternating), torch.tensor([2.0]))


def test_flicker_below_a_grey_level_of_the_real_clips_is_no_measure():
    still, moving = torch.zeros(1), torch.ones(1)
    made, real = {"energy": moving, "flicker": still + 0.5 / 255}, {"energy": moving, "flicker": still + 1e-5}
    colours = {"colour_entropy": moving}
    assert motion.summary(made | colours, real | colours)["flicker_ratio"] == pytest.approx(0.5)


def test_dots_that_jump_about_move_and_do_not_flicker():
    board = (torch.arange(16).view(-1, 1) + torch.arange(16)) % 2
    jumping = (
        torch.stack([(board + frame) % 2 for frame in range(4)]).float().view(1, 4, 1, 16, 16).expand(1, 4, 3, 16, 16)
    )
    assert motion.energy(jumping).tolist() == [1.0]
    assert motion.flicker(jumping).tolist() == [0.0]


def test_entropy_counts_the_colours():
    flat = torch.full((1, 2, 3, 4, 4), 0.5)
    assert motion.colour_entropy(flat).item() == 0.0
    halves = flat.clone()
    halves[:, :, 0, :2] = 1.0  # two colours, half the pixels each
    assert motion.colour_entropy(halves).item() == pytest.approx(1.0)


def test_entropy_of_evenly_spread_colours_is_the_maximum():
    generator = torch.Generator().manual_seed(0)
    video = torch.rand(1, 2, 3, 256, 256, generator=generator)
    assert motion.colour_entropy(video, levels=4).item() == pytest.approx(3 * math.log2(4), abs=0.01)


@pytest.mark.parametrize(
    "figure",
    [motion.energy, motion.first_frame_distance, motion.first_frame_copy_rate, motion.flicker, motion.colour_entropy],
)
def test_bytes_and_floats_give_the_same_figure(figure):
    generator = torch.Generator().manual_seed(0)
    video = torch.randint(0, 256, (2, 4, 3, 8, 8), dtype=torch.uint8, generator=generator)
    torch.testing.assert_close(figure(video), figure(video.float() / 255))


@pytest.mark.parametrize("bad", [ramp() * 10, ramp() - 1.0, torch.full((1, 3, 3, 4, 4), float("nan"))])
def test_pixels_out_of_range_are_refused(bad):
    with pytest.raises(DataError, match="range"):
        motion.energy(bad)


def test_too_few_frames_are_refused():
    with pytest.raises(DataError, match="3 frames"):
        motion.flicker(ramp(frames=2))
