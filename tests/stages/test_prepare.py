import json
import shutil

import pytest
import torch
from movies import moving, texture
from PIL import Image
from safetensors.torch import load_file

from mobilevd import artifacts, params
from mobilevd.errors import DataError, RecipeError
from mobilevd.stages import encode, figures, prepare
from mobilevd.training.data import Clips
from mobilevd.video import clips, identity, manifest, store

OPTIM = {"lr": 1.0e-4}
ADVERSARIAL = {"steps": 1, "generator": OPTIM, "discriminator": OPTIM}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A random base: autoencoder of 4x4 space-to-depth pixels, small vision encoder, a UNet's configuration."""
    from diffusers import AutoencoderKLTemporalDecoder
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    vae = AutoencoderKLTemporalDecoder(48, 48, ("DownEncoderBlock2D",), (32,), 1, latent_channels=4, scaling_factor=0.5)
    vae.save_pretrained(folder / "vae")
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    encoder = CLIPVisionModelWithProjection(CLIPVisionConfig(**vision, image_size=32, patch_size=8, projection_dim=16))
    encoder.save_pretrained(folder / "image_encoder")
    (folder / "unet").mkdir()
    (folder / "unet" / "config.json").write_text(json.dumps({"block_out_channels": [32, 32, 64, 64]}))
    return folder


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Three videos and two photographs, and a cache of their own."""
    monkeypatch.setenv("MOBILEVD_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "data"
    folder.mkdir()
    for k in range(3):
        moving(folder / f"v{k}.mkv", seed=k, seconds=2.8)
    for k in range(2):
        Image.fromarray(texture(10 + k, 96, 160)).save(folder / f"p{k}.png")
    return folder


def recipe(base, data, **changes):
    section = {"data": str(data), "pin": None, "min_train_clips": 3, "min_validation_clips": 2, "max_failed_share": 0.5}
    section |= {"rendered": {"train_per_photo": 2, "validation_per_photo": 1}} | changes
    return params.check(
        {
            "name": "tiny",
            "base": str(base),
            "clip": {"frames": 4, "fps": 5.0, "width": 128, "height": 64},
            "prepare": section,
            "finetune": {"steps": 1, "optim": OPTIM},
            "distill": {"adversarial": ADVERSARIAL},
            "prune": {"keep": 1, "adversarial": ADVERSARIAL},
            "funnel": {"adversarial": ADVERSARIAL},
            "gates": [{"metric": "fvd", "max": 1.0}],
        }
    )


def test_folders_are_sealed_and_hold_what_later_stages_read(base, data, tmp_path):
    record = prepare.run(recipe(base, data), {}, tmp_path / "work")
    assert record.figures.keys() == figures.of_stage("prepare")
    for artifact in record.artifacts.values():
        artifacts.verify(artifact.path, artifact.sha256)
    rows = manifest.rows(record.artifacts["latents"].path)
    assert rows == manifest.rows(record.artifacts["clips"].path)
    for side in ("train", "validation"):
        ours = [row for row in rows if row.split == side]
        video = load_file(record.artifacts["clips"].path / f"{side}.safetensors")["video"]
        latents = load_file(record.artifacts["latents"].path / f"{side}.safetensors")
        shapes = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in latents.items()}
        assert shapes == {
            "latents": ((len(ours), 4, 4, 16, 32), torch.float16),
            "image_latents": ((len(ours), 4, 16, 32), torch.float16),
            "tokens": ((len(ours), 1, 16), torch.float16),
        }
        assert tuple(video.shape) == (len(ours), 4, 3, 64, 128)
        assert [clips.digest(v) for v in video] == [row.pixels_sha256 for row in ours]
        assert record.figures[f"prepare.{side}_clips"] == len(ours) > 0
    assert record.data_md5 == identity.unpinned(data)
    assert "unpinned" in record.facts["data"]
    assert record.artifacts["data_docs"].path.joinpath("index.html").is_file()


def test_latents_are_the_bases_own_of_the_clip_at_the_same_place(base, data, tmp_path):
    from mobilevd.svd.base import load

    record = prepare.run(recipe(base, data), {}, tmp_path / "work")
    video = load_file(record.artifacts["clips"].path / "train.safetensors")["video"]
    latents = load_file(record.artifacts["latents"].path / "train.safetensors")
    expected = load(str(base)).encode(video[-1])
    for name, tensor in expected.items():
        assert torch.equal(latents[name][-1], tensor)
    first = latents["latents"][:, 0].float() / 0.5
    assert torch.allclose(latents["image_latents"].float(), first, atol=2e-2), "raw: not scaled"


def test_second_run_reuses_every_latent_and_gives_the_same_bytes(base, data, tmp_path):
    one = prepare.run(recipe(base, data), {}, tmp_path / "one")
    two = prepare.run(recipe(base, data), {}, tmp_path / "two")
    count = one.figures["prepare.train_clips"] + one.figures["prepare.validation_clips"]
    assert (one.figures["prepare.latents_computed"], two.figures["prepare.latents_reused"]) == (count, count)
    for name in ("clips", "latents"):
        assert one.artifacts[name].sha256 == two.artifacts[name].sha256


def test_rejected_files_are_listed_with_their_reasons(base, data, tmp_path):
    (data / "empty.mp4").write_bytes(b"")
    record = prepare.run(recipe(base, data), {}, tmp_path / "work")
    assert record.tables["rejected"] == [{"source": "empty.mp4", "reason": "zero bytes", "detail": "", "start_s": None}]
    assert record.figures["prepare.rejected_files"] == 1
    assert {row["source"] for row in record.tables["sources"]} == {"v0.mkv", "v1.mkv", "v2.mkv", "p0.png", "p1.png"}
    for picture in record.pictures.values():
        assert Image.open(tmp_path / "work" / picture).width > 100


def test_several_shards_hold_the_rows_and_tensors_of_one_in_its_order(base, data, tmp_path):
    one = prepare.run(recipe(base, data), {}, tmp_path / "one")
    more = prepare.run(recipe(base, data, files_per_shard=2), {}, tmp_path / "more")
    assert more.figures["prepare.shards"] == 3
    same = ("train_clips", "validation_clips", "train_sources", "train_motion_mean", "rejected_files")
    assert [more.figures[f"prepare.{n}"] for n in same] == [one.figures[f"prepare.{n}"] for n in same]
    folders = [record.artifacts["latents"].path for record in (one, more)]
    for side in ("train", "validation"):
        (whole, shared) = (Clips(folder / f"{side}.safetensors") for folder in folders)
        assert len(whole) == len(shared) == one.figures[f"prepare.{side}_clips"]
        numbers = [*range(len(whole)), 0]
        pairs = zip(whole.batch(numbers), shared.batch(numbers), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        pixels = [list(store.clips(r.artifacts["clips"].path / f"{side}.safetensors")) for r in (one, more)]
        assert all(torch.equal(a, b) for a, b in zip(*pixels, strict=True))
        rows = [[row for row in manifest.rows(folder) if row.split == side] for folder in folders]
        assert rows[0] == rows[1]
    for artifact in more.artifacts.values():
        artifacts.verify(artifact.path, artifact.sha256)
    assert more.tables["sources"] == one.tables["sources"]


def test_too_few_clips_stop_the_run_and_leave_a_page(base, data, tmp_path):
    with pytest.raises(DataError, match="do not meet their expectations"):
        prepare.run(recipe(base, data, min_train_clips=20), {}, tmp_path / "work")
    assert (tmp_path / "work" / "data_docs" / "index.html").is_file()


@pytest.mark.parametrize("files_per_shard", [500, 2])
@pytest.mark.parametrize(("side", "most"), [("train", 18), ("validation", 9)])
def test_files_that_cannot_give_the_clips_are_refused_before_one_is_decoded(
    base, data, tmp_path, side, most, files_per_shard
):
    """Three videos of eight windows and two photographs; one of either kind is held out."""
    asked = {f"min_{side}_clips": most + 1, "files_per_shard": files_per_shard, "max_failed_share": 0.0}
    told = rf"at most 18 train clips and at most 9 validation clips, of 3 videos and 2 .*\n.*at least {most + 1} {side}"
    with pytest.raises(DataError, match=told) as error:
        prepare.run(recipe(base, data, **asked), {}, tmp_path / "work")
    assert f"prepare.min_{side}_clips" in error.value.where
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("files_per_shard", [500, 2])
def test_a_copy_of_a_file_is_listed_and_all_else_is_as_without_it(base, data, tmp_path, files_per_shard):
    asked = recipe(base, data, files_per_shard=files_per_shard)
    without = prepare.run(asked, {}, tmp_path / "without")
    shutil.copy(data / "v1.mkv", data / "v1 (1).mkv")
    record = prepare.run(asked, {}, tmp_path / "work")
    copy = {"source": "v1 (1).mkv", "reason": "same bytes as v1.mkv", "detail": "", "start_s": None}
    assert record.tables["rejected"] == [copy]
    assert (record.figures["prepare.rejected_files"], record.figures["prepare.latents_computed"]) == (1, 0)
    rows = [manifest.rows(one.artifacts["clips"].path) for one in (record, without)]
    assert rows[0] == rows[1]


def test_too_many_copies_are_refused_before_a_file_is_decoded(base, data, tmp_path):
    for k in range(6):
        shutil.copy(data / "v1.mkv", data / f"v1 ({k}).mkv")
    with pytest.raises(DataError, match=r"6 of 11 files cannot be used so far\n.*v1 \(0\)\.mkv: same bytes as v1\.mkv"):
        prepare.run(recipe(base, data), {}, tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_the_first_shard_stops_when_its_failures_are_too_many_for_all(base, data, tmp_path, monkeypatch):
    for k in range(6):
        (data / f"a{k}.mp4").write_bytes(b"")
    begun, run = [], encode.run
    monkeypatch.setattr(encode, "run", lambda *words: begun.append(words[-1]) or run(*words))
    with pytest.raises(DataError, match="5 of 11 files cannot be used so far"):
        prepare.run(recipe(base, data, files_per_shard=6, max_failed_share=0.4), {}, tmp_path / "work")
    assert begun == [0]


def test_drift_from_the_pin_stops_the_run_before_anything_is_decoded(base, data, tmp_path):
    from dvc.repo import Repo

    with Repo.init(str(tmp_path), no_scm=True) as repo:
        repo.add(str(data))
    pinned = recipe(base, data, pin=str(tmp_path / "data.dvc"))
    record = prepare.run(pinned, {}, tmp_path / "work")
    assert record.data_md5 == identity.identity(tmp_path / "data.dvc")
    (data / "new.mkv").write_bytes(b"x")
    with pytest.raises(DataError, match=r"added: new\.mkv"):
        prepare.run(pinned, {}, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_clip_size_that_the_base_cannot_halve_is_refused_at_once(base, data, tmp_path):
    deep = shutil.copytree(base, tmp_path / "deep")
    (deep / "unet" / "config.json").write_text(json.dumps({"block_out_channels": [32] * 6}))
    with pytest.raises(RecipeError, match="does not fit the base"):
        prepare.run(recipe(deep, data), {}, tmp_path / "work")
    assert not (tmp_path / "work").exists()
