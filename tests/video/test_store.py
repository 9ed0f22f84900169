import pytest
import torch
from safetensors.torch import load_file

from mobilevd.settings import Clip
from mobilevd.video import store

CLIP = Clip(frames=3, width=64, height=64)


def clip(seed):
    return torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_file_written_clip_by_clip_equals_the_stacked_clips(tmp_path):
    with store.ClipFile(tmp_path / "train.safetensors", CLIP) as file:
        for seed in range(3):
            file.append(clip(seed))
    expected = torch.stack([clip(seed) for seed in range(3)])
    assert torch.equal(load_file(tmp_path / "train.safetensors")["video"], expected)
    assert torch.equal(torch.stack(list(store.clips(tmp_path / "train.safetensors"))), expected)


def test_failure_leaves_no_file_behind(tmp_path):
    file = store.ClipFile(tmp_path / "train.safetensors", CLIP)

    def interrupted():
        with file:
            file.append(clip(0))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_clip_of_another_shape_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is due"), store.ClipFile(tmp_path / "a.safetensors", CLIP) as file:
        file.append(clip(0)[:2])
