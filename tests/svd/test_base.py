"""One loader for SVD's folder layout: single precision in memory, safetensors on disk, the pocket's digests checked."""

import json
import re
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
import tiny_svd
import torch
from safetensors.torch import load_file, save_file
from svd_scheduler import SCHEDULER

from mobilevd.artifacts import seal
from mobilevd.errors import IntegrityError, RecipeError
from mobilevd.settings import Clip
from mobilevd.svd import autoencoder, base, conditioning
from mobilevd.svd.scheduler import CONFIG


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return tiny_svd.write_base(tmp_path_factory.mktemp("svd"))


@pytest.fixture(scope="module")
def half(tmp_path_factory) -> Path:
    return tiny_svd.write_base(tmp_path_factory.mktemp("svd-half"), variant="fp16")


@pytest.fixture
def pocket(whole, tmp_path, monkeypatch) -> Path:
    """A project of its own whose pocket base is the tiny one."""
    folder = tmp_path / "pocket" / "base"
    shutil.copytree(whole, folder)
    seal(folder)
    monkeypatch.setattr(base, "project_root", lambda: tmp_path)
    return folder


def clip(frames: int = 3) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (frames, 3, 64, 128), dtype=torch.uint8, generator=g)


def test_the_latents_scale_is_read_from_the_configuration_or_is_svds(whole, tmp_path):
    assert base.scaling_factor(str(whole)) == base.load(str(whole)).vae.config.scaling_factor
    assert base.scaling_factor("pocket") == pytest.approx(0.639, abs=1e-3)
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text("{}")
    assert base.scaling_factor(str(tmp_path)) == 0.18215


def test_folder_in_diffusers_layout_loads_as_it_was_written(whole):
    loaded = base.load(str(whole))
    expected = tiny_svd.unet().state_dict()
    found = loaded.unet().state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert torch.equal(loaded.vae.encoder.conv_in.weight, tiny_svd.vae().encoder.conv_in.weight)
    towers = (loaded.image_encoder, tiny_svd.tower())
    assert torch.equal(*(tower.visual_projection.weight for tower in towers))
    assert loaded.unet_config["num_frames"] == 14


def test_half_precision_files_load_in_single_precision(half):
    assert not list(half.rglob("diffusion_pytorch_model.safetensors"))
    loaded = base.load(str(half))
    for part in (loaded.unet(), loaded.vae, loaded.image_encoder):
        assert {p.dtype for p in part.parameters()} == {torch.float32}
    stored = load_file(half / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    assert torch.equal(loaded.unet().conv_in.weight, stored["conv_in.weight"].float())
    stored = load_file(half / "image_encoder" / "model.fp16.safetensors")
    assert torch.equal(loaded.image_encoder.visual_projection.weight, stored["visual_projection.weight"].float())


def test_full_files_win_over_half_ones(whole, half, tmp_path):
    shutil.copytree(half, tmp_path / "both")
    shutil.copytree(whole, tmp_path / "both", dirs_exist_ok=True)
    found = base.load(str(tmp_path / "both")).unet().conv_in.weight
    assert torch.equal(found, tiny_svd.unet().conv_in.weight)


def test_svd_xt_folder_loads_as_it_is_and_sees_25_frames(tmp_path):
    loaded = base.load(str(tiny_svd.write_base(tmp_path, variant="fp16", frames=25)))
    unet = loaded.unet().eval()
    assert unet.config.num_frames == loaded.unet_config["num_frames"] == 25
    given = torch.zeros(1, 25, 8, 8, 8), torch.zeros(1), torch.zeros(1, 1, 16), torch.zeros(1, 3)
    with torch.no_grad():
        assert unet(*given).shape == (1, 25, 4, 8, 8)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_weights_split_over_files_load_as_whole_ones(whole, half, tmp_path, variant):
    folder = tiny_svd.write_base(tmp_path, variant=variant, shard="400KB")
    assert all(len(list((folder / part).glob("*-of-*.safetensors"))) > 1 for part in ("unet", "vae"))
    split, expected = base.load(str(folder)), base.load(str(half if variant else whole))
    for part, other in ((split.unet(), expected.unet()), (split.vae, expected.vae)):
        pairs = zip(part.named_parameters(), other.named_parameters(), strict=True)
        assert all(name == same and torch.equal(p, q) for (name, p), (same, q) in pairs)
    lost = sorted((folder / "unet").glob("*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(IntegrityError, match=rf"missing(.|\n)*{lost.name}"):
        split.unet()


PARTS = {"unet": "conv_in.weight", "vae": "encoder.conv_in.weight", "image_encoder": "visual_projection.weight"}


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda tensors, name: tensors.pop(name), "missing {}"),
        (lambda tensors, name: tensors.update({f"{name}.stowaway": torch.zeros(1)}), "extra {}.stowaway"),
        (lambda tensors, name: tensors.update({name: tensors[name][:-1]}), "{}"),
    ],
)
@pytest.mark.parametrize("part", PARTS)
def test_tensor_missing_extra_or_misshapen_is_refused_by_name(whole, tmp_path, part, damage, told):
    folder = shutil.copytree(whole, tmp_path / "damaged")
    [file] = (folder / part).glob("*.safetensors")
    tensors = load_file(file)
    damage(tensors, PARTS[part])
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(IntegrityError, match=f"(?s)do not fit.*{told.format(re.escape(PARTS[part]))}"):
        take(base.load(str(folder)), part)


@pytest.mark.parametrize("part", PARTS)
def test_file_cut_off_is_refused_naming_a_tensor(whole, tmp_path, part):
    folder = shutil.copytree(whole, tmp_path / "cut")
    [file] = (folder / part).glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-4])
    last = max(json.loads(file.read_bytes()[8:].split(b"}}")[0] + b"}}").items(), key=ends)[0]
    with pytest.raises(IntegrityError, match=f"{re.escape(last)} is cut off, and 0"):
        take(base.load(str(folder)), part)


def ends(item: tuple[str, dict]) -> int:
    """Where a tensor of a safetensors header ends."""
    return item[1].get("data_offsets", (0, 0))[1]


def take(loaded: base.Base, part: str):
    """One part of a base, loaded now."""
    return loaded.unet() if part == "unet" else getattr(loaded, part)


def test_position_ids_that_old_image_encoders_stored_are_let_pass(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "old")
    file = folder / "image_encoder" / "model.safetensors"
    tensors = load_file(file) | {"vision_model.embeddings.position_ids": torch.arange(5)[None]}
    save_file(tensors, file, metadata={"format": "pt"})
    assert torch.equal(base.load(str(folder)).image_encoder.visual_projection.weight, tensors[PARTS["image_encoder"]])


def test_network_is_fresh_each_time_and_the_encoders_are_frozen(whole):
    loaded = base.load(str(whole))
    first, second = loaded.unet(), loaded.unet()
    first.conv_in.weight.data.zero_()
    assert second.conv_in.weight.abs().sum() > 0
    assert all(p.requires_grad for p in second.parameters())
    assert loaded.vae is loaded.vae
    assert not any(p.requires_grad for part in (loaded.vae, loaded.image_encoder) for p in part.parameters())
    assert not any(part.training for part in (loaded.vae, loaded.image_encoder))


def test_encoded_clip_has_scaled_latents_the_raw_first_frame_and_its_token(whole):
    loaded, video = base.load(str(whole)), clip()
    encoded = loaded.encode(video)
    assert {name: (tuple(t.shape), t.dtype) for name, t in encoded.items()} == {
        "latents": ((3, 4, 8, 16), torch.float16),
        "image_latents": ((4, 8, 16), torch.float16),
        "tokens": ((1, 16), torch.float16),
    }
    images = video.float() / 255
    raw = autoencoder.encode(loaded.vae, images)
    torch.testing.assert_close(encoded["latents"], (0.18215 * raw).half())
    torch.testing.assert_close(encoded["image_latents"], raw[0].half())
    torch.testing.assert_close(encoded["tokens"], conditioning.image_tokens(loaded.image_encoder, images[:1])[0].half())


def test_half_precision_latents_decode_to_pixels(whole):
    loaded = base.load(str(whole))
    latents = loaded.encode(clip())["latents"][None]
    pixels = loaded.decode(latents)
    assert (tuple(pixels.shape), pixels.dtype) == ((1, 3, 3, 64, 128), torch.float32)
    assert torch.equal(pixels, autoencoder.decode(loaded.vae, latents.float()))


def test_clips_are_encoded_and_decoded_where_the_base_was_sent(whole):
    sent = base.load(str(whole)).to(torch.device("meta"))
    assert sent.decode(torch.zeros(1, 3, 4, 8, 16, dtype=torch.float16)).device.type == "meta"
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):  # computed there, and fetched
        sent.encode(clip())


def test_digest_covers_every_part_and_the_encoders_have_their_own(whole, tmp_path):
    first = base.load(str(whole))
    copy = shutil.copytree(whole, tmp_path / "copy")
    assert (base.Base(copy).digest, base.Base(copy).encoder_digest) == (first.digest, first.encoder_digest)
    (copy / "unet" / "config.json").write_text("{}")
    assert base.Base(copy).digest != first.digest
    assert base.Base(copy).encoder_digest == first.encoder_digest
    (copy / "vae" / "config.json").write_text("{}")
    assert base.Base(copy).encoder_digest != first.encoder_digest


def test_digest_tells_a_schedule_that_is_not_svds_own(whole, tmp_path):
    first, digests = base.load(str(whole)), []
    for number, sigma_min in enumerate((0.002, 0.3, 0.9)):
        copy = shutil.copytree(whole, tmp_path / str(number))
        (copy / CONFIG).parent.mkdir(exist_ok=True)
        (copy / CONFIG).write_text(json.dumps(SCHEDULER | {"sigma_min": sigma_min}))
        digests.append(base.Base(copy).digest)
        assert base.Base(copy).encoder_digest == first.encoder_digest
    assert digests[0] == first.digest == first._digest_of(base.PARTS), "as in models that name it already"
    assert len(set(digests)) == 3


def test_relative_folder_is_found_beside_the_project(pocket, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    assert base.load("pocket/base").folder == tmp_path / "pocket" / "base"


def test_sound_pocket_is_loaded_by_its_name(pocket):
    assert base.load("pocket").folder == pocket


@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model.safetensors", "vae/config.json"])
def test_flipped_byte_in_the_pocket_is_refused_by_the_files_name(pocket, part):
    data = bytearray((pocket / part).read_bytes())
    data[-2] ^= 1
    (pocket / part).write_bytes(data)
    with pytest.raises(IntegrityError, match=part):
        base.load("pocket")


def test_pocket_that_is_gone_says_how_to_get_it_back(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "project_root", lambda: tmp_path)
    with pytest.raises(IntegrityError, match="git checkout pocket/base"):
        base.load("pocket")


def test_missing_parts_are_named(whole, tmp_path):
    shutil.copytree(whole / "unet", tmp_path / "base" / "unet")
    with pytest.raises(RecipeError, match=r"without vae/config\.json, image_encoder/config\.json"):
        base.load(str(tmp_path / "base"))


@pytest.mark.parametrize("part", ["unet", "vae", "image_encoder"])
def test_pickled_weights_are_refused(whole, tmp_path, part):
    folder = shutil.copytree(whole, tmp_path / "pickled")
    [weights] = (folder / part).glob("*.safetensors")
    name = "pytorch_model.bin" if part == "image_encoder" else "diffusion_pytorch_model.bin"
    torch.save(load_file(weights), folder / part / name)
    weights.unlink()
    loaded = base.load(str(folder))
    with pytest.raises(RecipeError, match=f"safetensors(.|\n)*{part}"):
        take(loaded, part)


@pytest.mark.parametrize("name", ["nobody/no-such-model", "no such/model at/all", "/nowhere/at/all", "~/nowhere"])
def test_unknown_base_is_refused_without_a_network(name, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    told = r"cannot be found(.|\n)*pocket, a folder in diffusers layout, or a hub id"
    for read in (base.load, base.scaling_factor):
        with pytest.raises(RecipeError, match=told):
            read(name)


@pytest.mark.parametrize(("width", "height"), [(512, 256), (64, 64), (1024, 576)])
def test_clip_of_whole_latents_at_every_level_is_accepted(whole, width, height):
    base.load(str(whole)).check_clip(Clip(width=width, height=height))


@pytest.mark.parametrize(("width", "height"), [(192, 128), (128, 192)])
def test_clip_that_the_network_cannot_halve_is_refused(tmp_path, width, height):
    tiny_svd.unet().save_pretrained(tmp_path / "unet")
    changes = {"in_channels": 768, "out_channels": 768, "block_out_channels": (32,)}
    tiny_svd.vae(down_block_types=("DownEncoderBlock2D",), **changes).save_pretrained(tmp_path / "vae")
    tiny_svd.tower().save_pretrained(tmp_path / "image_encoder")
    loaded = base.load(str(tmp_path))
    with pytest.raises(RecipeError, match=f"{width}x{height}\n  allowed: width and height that are multiples of 128"):
        loaded.check_clip(Clip(width=width, height=height))
    loaded.check_clip(Clip(width=256, height=128))
