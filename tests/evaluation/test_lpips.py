"""LPIPS: the package's own distances; a model that makes one clip for all has no diversity."""

import json
from pathlib import Path

import make_lpips_reference as reference
import pytest
import torch
from movies import texture

from mobilevd.errors import DataError
from mobilevd.evaluation import lpips

EXPECTED = json.loads(Path(__file__).with_name("lpips_reference.json").read_text(encoding="utf-8"))["distances"]


@pytest.fixture(scope="module")
def net() -> lpips.LPIPS:
    return lpips.load()


@pytest.mark.parametrize("name", reference.NAMES)
def test_distances_equal_the_packages_own(net, name):
    a, b = (torch.from_numpy(x).permute(0, 3, 1, 2) / 2 + 0.5 for x in reference.pair(name))
    assert net(a, b).item() == pytest.approx(EXPECTED[name], abs=1e-4)
    assert net(a, a).item() == 0.0
    assert net(b, a).item() == pytest.approx(net(a, b).item(), abs=1e-6)


def test_one_clip_for_all_has_no_diversity_and_different_ones_have(net):
    clips = torch.stack([torch.from_numpy(texture(k, 64, 96).copy()).permute(2, 0, 1) for k in range(3)])
    assert lpips.diversity(clips[:1].expand(3, -1, -1, -1), net) == 0.0
    pairs = [(0, 1), (1, 2), (2, 0)]
    expected = torch.cat([net(clips[i, None].float() / 255, clips[j, None].float() / 255) for i, j in pairs]).mean()
    assert lpips.diversity(clips, net) == pytest.approx(expected.item(), abs=1e-6)
    assert expected > 0.1
    with pytest.raises(DataError, match="One clip has no diversity"):
        lpips.diversity(clips[:1], net)
