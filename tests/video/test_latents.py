import torch

from mobilevd.video import latents


def clip(seed):
    return torch.randint(0, 256, (2, 3, 4, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


class Encoder:
    """Counts how often it is asked."""

    def __init__(self):
        self.calls = 0

    def __call__(self, video):
        self.calls += 1
        return {"latents": video.half().mean((-1, -2)), "tokens": video[:1, :, 0, 0].half()}


def keys(*names, encoder="e"):
    return [latents.key(name, encoder) for name in names]


def test_second_run_reads_what_the_first_computed(tmp_path):
    videos, encoder = [clip(0), clip(1)], Encoder()
    first = latents.encoded(videos, keys("a", "b"), encoder, tmp_path)
    again = latents.encoded(videos, keys("a", "b"), encoder, tmp_path)
    assert encoder.calls == 2
    assert (first.computed, first.reused, again.computed, again.reused) == (2, 0, 0, 2)
    for name, tensor in first.tensors.items():
        assert torch.equal(tensor, again.tensors[name])
    assert torch.equal(first.tensors["latents"], torch.stack([v.half().mean((-1, -2)) for v in videos]))


def test_other_pixels_or_another_encoder_are_encoded_again(tmp_path):
    encoder = Encoder()
    for names in (keys("a"), keys("b"), keys("a", encoder="f"), keys("a")):
        latents.encoded([clip(0)], names, encoder, tmp_path)
    assert encoder.calls == 3


def test_damaged_file_is_noticed_said_and_computed_again(tmp_path, caplog):
    encoder = Encoder()
    expected = latents.encoded([clip(0)], keys("a"), encoder, tmp_path).tensors
    [path] = [p for p in tmp_path.rglob("*") if p.is_file()]
    whole = path.read_bytes()
    flipped = whole[:-1] + bytes([whole[-1] ^ 1])
    for damage in (flipped, whole[: len(whole) // 2], b""):
        path.write_bytes(damage)
        caplog.clear()
        repaired = latents.encoded([clip(0)], keys("a"), encoder, tmp_path)
        assert (repaired.computed, repaired.damaged) == (1, 1)
        assert "damaged" in caplog.text
        assert all(torch.equal(repaired.tensors[name], tensor) for name, tensor in expected.items())
        assert path.read_bytes() == whole


def test_only_whole_files_lie_in_the_cache(tmp_path):
    latents.encoded([clip(0)], keys("a"), Encoder(), tmp_path)
    assert [p.suffix for p in tmp_path.rglob("*") if p.is_file()] == [".safetensors"]
