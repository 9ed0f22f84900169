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
    assert [tuple(t.shape) for t in batch] == [(2, 3, 4, 8, 8), (2, 4, 8, 8), (2, 1, 16), (2, 3)]


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_every_epoch_shows_each_clip_once_whatever_the_batch_size(batch_size):
    shown = [i for step in range(30) for i in data.indices(5, data.Share(batch_size), 0, step)]
    epochs = [shown[k : k + 5] for k in range(0, len(shown) - 4, 5)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_the_order_is_a_function_of_seed_and_step():
    assert data.indices(50, data.Share(4), 3, 7) == data.indices(50, data.Share(4), 3, 7)
    assert data.indices(50, data.Share(4), 3, 7) != data.indices(50, data.Share(4), 4, 7)


@pytest.mark.parametrize("shares", [[data.Share(1, 4)], [data.Share(1, 2, rank, 2) for rank in range(2)]])
def test_a_step_has_the_same_clips_and_noise_however_it_is_cut_up(write_clips, shares):
    def step(shares):
        feeds = [data.Feed(data.Clips(write_clips(count=7)), share, seed=1) for share in shares]
        parts = [part for feed in feeds for part in feed.parts(3)]
        noise = [torch.randn(2, generator=g).tolist() for part in parts for g in part.generators]
        return [i for part in parts for i in part.batch.latents[:, 0, 0, 0, 0].tolist()], noise

    assert step(shares) == step([data.Share(4)])


def test_workers_read_the_same_batches_ahead_and_go_back_when_asked(write_clips):
    clips, share = data.Clips(write_clips(), torch.arange(15.0).view(5, 3)), data.Share(2, 2)
    ahead, plain = data.Feed(clips, share, seed=1, workers=2), data.Feed(clips, share, seed=1)
    for step in (0, 1, 2, 1, 2):
        for got, want in zip(ahead.parts(step), plain.parts(step), strict=True):
            assert all(torch.equal(g, w) for g, w in zip(got.batch, want.batch, strict=True))


def test_stacked_rows_are_the_batch():
    rows = [data.Batch(*(torch.full((1, 2), float(i)) for _ in range(4))) for i in range(3)]
    assert data.stacked(rows).tokens[:, 0].tolist() == [0.0, 1.0, 2.0]


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
