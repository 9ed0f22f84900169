import pytest
import torch

from mobilevd.errors import DataError
from mobilevd.training import data


def test_a_batch_holds_the_asked_clips_in_order_in_float32(write_clips):
    clips = data.Clips(write_clips(count=5))
    batch = clips.batch([3, 0])
    assert (len(clips), clips.shape) == (5, (3, 4, 8, 8))
    assert batch.latents[:, 0, 0, 0, 0].tolist() == [3.0, 0.0]
    assert {t.dtype for t in batch} == {torch.float32}
    assert [tuple(t.shape) for t in batch] == [(2, 3, 4, 8, 8), (2, 4, 8, 8), (2, 1, 16)]


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_every_epoch_shows_each_clip_once_whatever_the_batch_size(batch_size):
    shown = [i for step in range(30) for i in data.order(5, batch_size, step, seed=0)]
    epochs = [shown[k : k + 5] for k in range(0, len(shown) - 4, 5)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_the_order_is_a_function_of_seed_and_step():
    assert data.order(50, 4, 7, seed=3) == data.order(50, 4, 7, seed=3)
    assert data.order(50, 4, 7, seed=3) != data.order(50, 4, 7, seed=4)


def test_processes_share_an_epoch_without_overlap():
    shown = [i for step in range(3) for rank in range(2) for i in data.order(12, 2, step, 0, rank, ranks=2)]
    assert sorted(shown) == list(range(12))


def test_a_missing_file_and_a_missing_tensor_are_named(write_clips, tmp_path):
    with pytest.raises(DataError, match="gone"):
        data.Clips(tmp_path / "nothing.safetensors")
    with pytest.raises(DataError, match="tokens"):
        data.Clips(write_clips(tokens=None))


def test_counts_that_differ_and_files_that_are_no_safetensors_are_refused(write_clips, tmp_path):
    with pytest.raises(DataError, match="disagree"):
        data.Clips(write_clips(tokens=torch.zeros(4, 1, 16)))
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\0" * 5)
    with pytest.raises(DataError, match="cannot be read"):
        data.Clips(broken)
