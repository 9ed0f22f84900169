"""Autoencoder and image encoder at full size: published parameters, operations that grow with the pixels."""

import pytest

from mobilevd.evaluation.encoder_cost import encodings


@pytest.mark.slow
def test_encoders_weigh_what_is_published_and_grow_with_the_pixels():
    small = {item.row: item for item in encodings((512, 256))}
    double = {item.row: item for item in encodings((512, 512))}
    tower, encode, decode = small
    assert small[tower].params_m == pytest.approx(632.1, abs=0.1)
    assert small[encode].params_m + small[decode].params_m == pytest.approx(97.7, abs=0.1)
    assert double[tower] == small[tower]
    for row in (encode, decode):
        assert double[row].params_m == small[row].params_m
        assert 2.0 < double[row].tflops / small[row].tflops < 2.1, "convolutions double, attention quadruples"
    assert small[decode].tflops > 14 * small[encode].tflops, "the decoder is larger, and has 14 frames"
