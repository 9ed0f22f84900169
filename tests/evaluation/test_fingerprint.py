"""Scores of other protocols are not compared, and the real set's features are computed once."""

import pytest
import torch

from mobilevd.errors import IntegrityError
from mobilevd.evaluation import fingerprint
from mobilevd.evaluation.fingerprint import Fingerprint

FIELDS = {
    "real": "a" * 64,
    "extractor": "b" * 64,
    "sampler": "c" * 64,
    "clips": 16,
    "frames": 14,
    "fps": 7.0,
    "width": 512,
    "height": 256,
    "resize": "tf-reference",
    "crop": "none",
    "seed": 0,
    "dtype": "float32",
}
OTHER = {str: "other", int: 99, float: 25.0}
ONE = Fingerprint(**FIELDS)


@pytest.mark.parametrize("field", FIELDS)
def test_a_difference_in_any_field_is_refused_by_its_name(field):
    other = Fingerprint(**FIELDS | {field: OTHER[type(FIELDS[field])]})
    assert other.digest != ONE.digest
    with pytest.raises(IntegrityError, match=f"different protocols: {field}\n"):
        fingerprint.require_same(ONE.model_dump(), other.model_dump())


def test_one_protocol_is_itself_also_through_a_records_facts():
    told = fingerprint.of_facts(ONE.facts() | {"preprocessing": "tf-reference"})
    fingerprint.require_same(told, ONE.model_dump(mode="json"))
    assert Fingerprint(**told).digest == ONE.digest


def test_a_score_without_a_fingerprint_or_with_half_a_one_is_refused():
    assert fingerprint.of_facts({"preprocessing": "tf-reference"}) == {}
    with pytest.raises(IntegrityError, match="without a fingerprint"):
        fingerprint.require_same(ONE.model_dump(), {})
    with pytest.raises(IntegrityError, match=r"not whole(.|\n)*extractor"):
        fingerprint.of_facts({"fingerprint.real": '"a"'})


def test_digest_of_clips_is_of_bytes_shape_and_order():
    video = torch.randint(0, 256, (2, 3, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    changed = video.clone()
    changed[1, 2, 0, 0, 0] += 1
    digests = [fingerprint.digest_of_clips(v) for v in (video, changed, video.flip(0), video.transpose(3, 4)[:1])]
    assert len(set(digests)) == 4
    assert fingerprint.digest_of_clips(video.clone()) == digests[0]


def test_features_are_computed_once_for_the_fields_they_depend_on(tmp_path):
    calls = []

    def make() -> torch.Tensor:
        calls.append(1)
        return torch.full((2, 3), float(len(calls)), dtype=torch.float64)

    first = fingerprint.features(ONE, make, tmp_path)
    other_seed = ONE.model_copy(update={"seed": 7, "sampler": "d" * 64})
    assert torch.equal(fingerprint.features(other_seed, make, tmp_path), first)
    for change in ({"real": "e" * 64}, {"extractor": "e" * 64}, {"resize": "sf-v"}):
        assert not torch.equal(fingerprint.features(ONE.model_copy(update=change), make, tmp_path), first)
    assert len(calls) == 4


def test_features_that_changed_in_the_cache_are_computed_again(tmp_path):
    fingerprint.features(ONE, lambda: torch.ones(2, 3), tmp_path)
    [file] = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\0")
    again = fingerprint.features(ONE, lambda: torch.full((2, 3), 2.0), tmp_path)
    assert torch.equal(again, torch.full((2, 3), 2.0))
    assert torch.equal(fingerprint.features(ONE, lambda: torch.zeros(2, 3), tmp_path), again)
