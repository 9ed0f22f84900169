import math

import pytest
import torch
from PIL import Image

from mobilevd import progress
from mobilevd.evaluation import motion
from mobilevd.stages import samples
from mobilevd.training import health


@pytest.fixture
def scene():
    """Latents that are a linear map of small pictures, and the pictures four times as large."""
    g = torch.Generator().manual_seed(0)
    small = torch.randint(0, 256, (3, 5, 3, 8, 8), generator=g).byte()
    latents = torch.einsum("nfchw,dc->nfdhw", small.float() / 255, torch.randn(4, 3, generator=g))
    large = small.repeat_interleave(4, -1).repeat_interleave(4, -2)
    return latents, small, large


def test_the_preview_finds_the_linear_map_and_says_how_much_it_explains(scene):
    latents, small, large = scene
    preview = samples.fit(latents, large)
    assert preview.r2 == pytest.approx(1.0)
    assert (preview(latents).int() - small.int()).abs().max() <= 1
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    assert samples.fit(noise, large).r2 < 0.2


def test_figures_are_evaluations_own(scene):
    _, small, _ = scene
    still = small[:, :1].expand_as(small)
    found = samples.figures(still, small)
    assert (found[health.MOTION], found[health.COPIES]) == (0.0, 1.0)
    assert found[health.COLOURS] == pytest.approx(
        float(motion.colour_entropy(still).mean() / motion.colour_entropy(small).mean())
    )


def test_each_validation_leaves_a_strip_shows_it_and_signs_its_output(scene, tmp_path):
    latents, _, large = scene
    shown, show = [], samples.Samples(samples.fit(latents, large), latents[:2], tmp_path, "distill")
    with progress.shown(lambda label, path: shown.append((label, path))):
        first, again = show(60, latents), show(120, latents)
    other = show(180, latents + 1e-4)
    assert shown == [(f"distill, step {k}: real above sampled", tmp_path / "samples.png") for k in (60, 120)]
    assert Image.open(tmp_path / "samples.png").size[0] == 5 * 256
    assert first[health.SIGNATURE] == again[health.SIGNATURE] != other[health.SIGNATURE]


def test_output_that_is_no_number_is_signed_so(scene, tmp_path):
    latents, _, large = scene
    show = samples.Samples(samples.fit(latents, large), latents[:2], tmp_path, "t")
    assert math.isnan(show(1, latents * float("nan"))[health.SIGNATURE])
