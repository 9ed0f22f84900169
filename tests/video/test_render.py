"""A camera over a photograph: the same bits for the same seed, real motion, and never a border from nowhere."""

import pytest
import torch
from movies import texture

from mobilevd.settings import Clip
from mobilevd.video import render as rendering
from mobilevd.video.clips import digest
from mobilevd.video.render import MOTIONS, render

CLIP = Clip(frames=6, fps=7.0, width=128, height=64)


def photo(height: int = 160, width: int = 240) -> torch.Tensor:
    return torch.from_numpy(texture(3, height, width).copy()).permute(2, 0, 1).contiguous()


@pytest.fixture(scope="module")
def by_motion() -> dict[str, list[int]]:
    """Motion → seeds that choose it."""
    found: dict[str, list[int]] = {}
    for seed in range(40):
        found.setdefault(render(photo(), CLIP, seed)[1], []).append(seed)
    return found


def test_same_seed_gives_the_same_bits_and_another_seed_another_clip():
    first, motion = render(photo(), CLIP, 5)
    again, same_motion = render(photo(), CLIP, 5)
    assert torch.equal(first, again)
    assert motion == same_motion
    assert not torch.equal(first, render(photo(), CLIP, 6)[0])


def test_clip_has_the_recipes_frames_and_size():
    frames, _ = render(photo(), Clip(frames=3, fps=7.0, width=192, height=64), 0)
    assert frames.dtype == torch.uint8
    assert frames.shape == (3, 3, 64, 192)


def test_randomness_of_others_is_neither_used_nor_disturbed():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, _ = render(photo(), CLIP, 5)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(first, render(photo(), CLIP, 5)[0])


def test_every_motion_is_drawn_and_moves(by_motion):
    assert set(by_motion) == set(MOTIONS)
    for motion, seeds in by_motion.items():
        frames = render(photo(), CLIP, seeds[0])[0].float()
        steps = frames.diff(dim=0).abs().mean(dim=(1, 2, 3))
        assert steps.mean() > 0.5, motion
        assert (frames[-1] - frames[0]).abs().mean() > steps.mean(), f"{motion} goes on, it does not shake"


@pytest.mark.parametrize("size", [(160, 240), (64, 400), (300, 70), (20, 30)])
def test_flat_photograph_stays_flat_so_no_border_shows(size):
    flat = torch.full((3, *size), 200, dtype=torch.uint8)
    flat[1] = 40
    for seed in range(10):
        frames, _ = render(flat, CLIP, seed)
        assert (frames.float() - flat[:, :1, :1].float()).abs().max() <= 1


def test_pan_stays_inside_the_photograph(by_motion):
    for seed in by_motion["pan"]:
        generator = torch.Generator().manual_seed(seed)
        torch.randint(len(MOTIONS), (1,), generator=generator)
        camera = rendering._path("pan", 240, 160, CLIP, generator)
        halves = {"x": (camera.width / 2, 240), "y": (camera.width / 4, 160)}
        for axis, (half, length) in halves.items():
            centre = getattr(camera, axis)
            assert (centre - half).min() >= -1e-3, (seed, axis)
            assert (centre + half).max() <= length + 1e-3, (seed, axis)


def test_zoom_changes_the_scale_and_roll_the_angle_and_pan_neither():
    for motion in MOTIONS:
        camera = rendering._path(motion, 240, 160, CLIP, torch.Generator().manual_seed(0))
        assert (camera.width.max() - camera.width.min() > 1) == ("zoom" in motion), motion
        assert (camera.angle.abs().max() > 0.01) == (motion == "roll"), motion
        assert (camera.x.max() - camera.x.min() > 1) == (motion != "zoom"), motion


def test_camera_samples_the_photograph_where_it_stands():
    """A ramp along x tells where each pixel was taken: x = centre + width (u − ½), u at the pixels' centres."""
    ramp = (torch.arange(240) + 0.5).div(240).expand(3, 160, 240)
    frames = torch.ones(6)
    camera = rendering.Camera(x=120 * frames, y=80 * frames, width=100 * frames, angle=0 * frames)
    shot = rendering._shoot(ramp, camera, CLIP)
    expected = (120 + 100 * ((torch.arange(128) + 0.5) / 128 - 0.5)) / 240
    torch.testing.assert_close(shot[2, 0, 30], expected, atol=5e-4, rtol=0)
    torch.testing.assert_close(shot[:, :, 30], shot[:, :, 50])


def test_quarter_turn_shows_the_photograph_on_its_side():
    ramp = (torch.arange(160) + 0.5).div(160)[:, None].expand(3, 160, 240)
    frames = torch.ones(6)
    turned = rendering.Camera(x=120 * frames, y=80 * frames, width=100 * frames, angle=torch.pi / 2 * frames)
    shot = rendering._shoot(ramp, turned, CLIP)
    expected = (80 + 100 * ((torch.arange(128) + 0.5) / 128 - 0.5)) / 160
    torch.testing.assert_close(shot[0, 0, 30], expected, atol=5e-4, rtol=0)


def density(frames: torch.Tensor, pixels_per_pixel: float) -> rendering.Camera:
    return rendering.Camera(x=320 * frames, y=160 * frames, width=pixels_per_pixel * 128 * frames, angle=0 * frames)


def test_camera_sized_photograph_is_averaged_before_it_is_sampled():
    """A board of single pixels is grey from far away: sampled at points it would be black and white, and flicker."""
    board = (torch.arange(640)[None, :] + torch.arange(320)[:, None]).remainder(2).float().expand(3, 320, 640)
    frames = torch.ones(6)
    shot = rendering._shoot(board, density(frames, 4.3), CLIP)
    assert (shot - 0.5).abs().max() < 0.05
    assert (rendering._shoot(board, density(frames, 2.2), CLIP) - 0.5).abs().max() > 0.3, "which is left as it was"


def test_averaging_moves_nothing():
    """The ramp again, from farther away, over a photograph whose sides are no multiples of what is averaged."""
    ramp = (torch.arange(641) + 0.5).div(640).expand(3, 322, 641)
    shot = rendering._shoot(ramp, density(torch.ones(6), 4.3), CLIP)
    expected = (320 + 4.3 * 128 * ((torch.arange(128) + 0.5) / 128 - 0.5)) / 640
    torch.testing.assert_close(shot[2, 0, 30], expected, atol=1e-3, rtol=0)


def test_photograph_of_the_sample_sets_size_is_rendered_to_the_bits_it_had(monkeypatch):
    """Its largest has 2.1 pixels per pixel of the clip; here nearly 2.5."""
    clips = [digest(render(photo(320, 400), CLIP, seed)[0]) for seed in range(12)]
    larger = digest(render(photo(640, 800), CLIP, 0)[0])
    monkeypatch.setattr(rendering, "FINE", float("inf"))
    assert [digest(render(photo(320, 400), CLIP, seed)[0]) for seed in range(12)] == clips
    assert digest(render(photo(640, 800), CLIP, 0)[0]) != larger
