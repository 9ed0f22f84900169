import numpy as np
import one_step
import pytest
import torch

from mobilevd.device import inputs
from mobilevd.errors import IntegrityError, MobileVDError


def test_the_inputs_are_those_of_the_networks_forward():
    assert one_step.SPEC.names == ["noise", "image_latents", "token", "ids"]
    shapes = {spec.name: spec.shape for spec in (*one_step.SPEC.inputs, *one_step.SPEC.outputs)}
    assert shapes["noise"] == shapes["latents"] == (5, 4, 8, 8)
    assert (shapes["image_latents"], shapes["token"], shapes["ids"]) == ((1, 4, 8, 8), (1, 1, 16), (1, 3))


def test_a_random_feed_passes_its_own_check_and_repeats_with_its_seed():
    first, again = (one_step.SPEC.random(torch.Generator().manual_seed(1)) for _ in range(2))
    one_step.SPEC.check(first)
    assert all(np.array_equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda feed: feed.pop("ids"), "no ids"),
        (lambda feed: feed.update(extra=feed["ids"]), "extra float32"),
        (lambda feed: feed.update(ids=feed["ids"].astype(np.float64)), "ids float64"),
        (lambda feed: feed.update(token=feed["token"][0]), r"token float32 \[1 16\]"),
    ],
)
def test_a_feed_that_does_not_fit_is_refused_by_name(change, named):
    feed = one_step.feeds(1)[0]
    change(feed)
    with pytest.raises(MobileVDError, match=f"got: +{named}"):
        one_step.SPEC.check(feed)


def test_the_description_beside_a_graph_is_read_back(tmp_path):
    with pytest.raises(IntegrityError, match=r"inputs\.json"):
        inputs.load(tmp_path)
    one_step.SPEC.save(tmp_path)
    assert inputs.load(tmp_path) == one_step.SPEC
