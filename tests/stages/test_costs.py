"""What a stored network costs, by its edits and the clip's size; the paper's ladder is counted in test_cli."""

import shutil

import pytest
import tiny_svd

from mobilevd.artifacts import write_json
from mobilevd.errors import IntegrityError, MobileVDError
from mobilevd.evaluation.cost import count
from mobilevd.method import cross_attention, surgery, temporal_multiscale
from mobilevd.stages import costs


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A network with one edit, and SVD's autoencoder beside it."""
    return tiny_svd.write_bundle(tmp_path_factory.mktemp("costs") / "bundle").path


def test_stored_network_is_counted_with_its_edits(bundle):
    row = costs.model_row(bundle, 128, 64)
    network = tiny_svd.unet()
    plain = count(network, (1, 14, 4, 8, 16))
    cross_attention.apply(network)
    expected = count(network, (1, 14, 4, 8, 16))
    assert (row["tflops"], row["params_m"]) == (expected.tflops, expected.params_m)
    assert row["tflops"] < plain.tflops
    assert (row["row"], row["size"], row["latents"]) == ("bundle", "128x64", "14 x 4 x 8 x 16")


def test_folder_may_be_the_network_itself(bundle):
    inside = costs.model_row(bundle / "unet", 128, 64)
    assert inside == costs.model_row(bundle, 128, 64) | {"row": "unet"}


def test_twice_the_pixels_cost_more_and_weigh_the_same(bundle):
    small, large = costs.model_row(bundle, 128, 64), costs.model_row(bundle, 128, 128)
    assert 1.9 < large["tflops"] / small["tflops"] < 2.5
    assert large["params_m"] == small["params_m"]


def test_autoencoder_beside_the_network_says_how_many_pixels_a_latent_covers(bundle, tmp_path):
    copy = shutil.copytree(bundle, tmp_path / "copy")
    write_json(copy / "vae" / "config.json", {"in_channels": 768, "block_out_channels": [32]})
    assert costs.model_row(copy, 256, 128) == costs.model_row(bundle, 128, 64) | {"row": "copy", "size": "256x128"}
    shutil.rmtree(copy / "vae")
    assert costs.model_row(copy, 128, 64)["latents"] == "14 x 4 x 8 x 16"


def test_counting_reads_no_weights(bundle, tmp_path):
    copy = shutil.copytree(bundle, tmp_path / "copy")
    (copy / surgery.WEIGHTS).unlink()
    assert costs.model_row(copy, 128, 64)["tflops"] == costs.model_row(bundle, 128, 64)["tflops"]


def test_network_without_a_log_is_counted_as_it_stands(tmp_path):
    network = tiny_svd.unet()
    network.save_pretrained(tmp_path / "unet")
    plain = costs.model_row(tmp_path, 128, 64)
    assert plain["tflops"] == count(network, (1, 14, 4, 8, 16)).tflops
    write_json(tmp_path / "unet" / "surgery.json", [temporal_multiscale.apply(network)])
    assert costs.model_row(tmp_path, 128, 64)["tflops"] < plain["tflops"]


def test_folder_without_a_network_is_refused(tmp_path):
    with pytest.raises(IntegrityError, match=r"no network here(.|\n)*unet/config\.json"):
        costs.model_row(tmp_path, 128, 64)


@pytest.mark.parametrize(("width", "height"), [(100, 64), (128, 60), (0, 64), (-8, 64)])
def test_clip_without_whole_latents_is_refused(bundle, width, height):
    with pytest.raises(MobileVDError, match=f"{width}x{height}\n  allowed: multiples of 8 pixels"):
        costs.model_row(bundle, width, height)


def test_network_of_a_run_is_counted_on_the_latents_of_the_base_that_its_prepare_names(bundle, tmp_path):
    network = tmp_path / "run" / "funnel" / "network"
    shutil.copytree(bundle / "unet", network / "unet")
    assert costs.told_downscale(network) is None
    told = {"stage/base": None, "": None, str(tmp_path / "base"): 16, "pocket": 16}
    write_json(tmp_path / "base" / "vae" / "config.json", {"in_channels": 3, "block_out_channels": [32] * 5})
    for part in ("unet", "image_encoder"):
        write_json(tmp_path / "base" / part / "config.json", {})
    for base, side in told.items():
        write_json(tmp_path / "run" / "prepare" / "record.json", {"facts": {"base": base}})
        assert costs.told_downscale(network) == costs.told_downscale(network / "unet") == side, base
    row = costs.model_row(network, 256, 128)
    assert row == costs.model_row(bundle, 128, 64) | {"row": "network", "size": "256x128"}
    assert costs.model_row(network, 128, 64, 8)["latents"] == "14 x 4 x 8 x 16"


def test_bundle_of_a_run_is_counted_by_its_own_autoencoder(bundle, tmp_path):
    copy = shutil.copytree(bundle, tmp_path / "run" / "register" / "bundle")
    write_json(tmp_path / "run" / "prepare" / "record.json", {"facts": {"base": "pocket"}})
    assert costs.told_downscale(copy) == 8
