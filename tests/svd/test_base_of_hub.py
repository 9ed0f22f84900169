"""A base at the hub: what is fetched of it, which revision, and what is said when it is not handed out."""

import shutil
from pathlib import Path

import hf_hub
import huggingface_hub
import pytest
import tiny_svd
import torch
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

from mobilevd.errors import RecipeError
from mobilevd.svd import base

FIRST, SECOND = "a" * 40, "b" * 40


@pytest.fixture(scope="module")
def half(tmp_path_factory) -> Path:
    return tiny_svd.write_base(tmp_path_factory.mktemp("half"), variant="fp16", shard="400KB")


@pytest.fixture(scope="module")
def both(half, tmp_path_factory) -> Path:
    """Full and half-precision weights beside each other, as at the hub; each in several files."""
    folder = tmp_path_factory.mktemp("both") / "svd"
    shutil.copytree(half, folder)
    return tiny_svd.write_base(folder, shard="400KB")


def test_half_precision_copies_are_not_fetched_where_the_full_weights_are(both, tmp_path, monkeypatch):
    with hf_hub.serving(hf_hub.Hub({FIRST: both}), tmp_path, monkeypatch) as hub:
        loaded = base.load(hf_hub.NAME)
    assert [name for name in hub.given if "fp16" in name] == []
    assert torch.equal(loaded.unet().conv_in.weight, tiny_svd.unet().conv_in.weight)
    assert loaded.digest == base.load(str(both)).digest, "whatever else lies beside what is read"


def test_half_precision_weights_are_fetched_where_there_are_no_others(half, tmp_path, monkeypatch):
    with hf_hub.serving(hf_hub.Hub({FIRST: half}), tmp_path, monkeypatch):
        loaded = base.load(hf_hub.NAME)
    assert torch.equal(loaded.unet().conv_in.weight, tiny_svd.unet().conv_in.weight.half().float())
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert base.load(hf_hub.NAME).folder == loaded.folder


def test_a_revision_is_the_one_that_is_fetched_and_one_that_is_not_there_is_told(both, half, tmp_path, monkeypatch):
    with hf_hub.serving(hf_hub.Hub({FIRST: both, SECOND: half}), tmp_path, monkeypatch):
        assert base.load(hf_hub.NAME).folder.name == FIRST
        assert base.load(f"{hf_hub.NAME}@{SECOND}").folder.name == SECOND
        assert base.scaling_factor(f"{hf_hub.NAME}@{SECOND}") == 0.18215
        with pytest.raises(RecipeError, match=f"no such revision(.|\n)*{hf_hub.NAME}@v9(.|\n)*a branch, tag or commit"):
            base.load(f"{hf_hub.NAME}@v9")
    assert not base.is_here(f"{hf_hub.NAME}@{SECOND}")


def test_a_folder_with_the_sign_of_a_revision_in_its_name_is_a_folder(both, tmp_path):
    folder = shutil.copytree(both, tmp_path / "svd@mine")
    assert base.load(str(folder)).folder == folder


TOLD = r"(?s)does not hand out.*accept the licence on its page at the hub, {}, and set HF_TOKEN, in machines.secrets"


def test_a_gated_base_says_where_to_accept_its_licence_and_is_fetched_with_the_token(both, tmp_path, monkeypatch):
    with hf_hub.serving(hf_hub.Hub({FIRST: both}, gated=True), tmp_path, monkeypatch):
        for read in (base.load, base.scaling_factor):
            with pytest.raises(RecipeError, match=TOLD.format(hf_hub.NAME)):
                read(f"{hf_hub.NAME}@{FIRST}")
        with pytest.raises(RecipeError, match=TOLD.format("somebody/else")):
            base.load("somebody/else")
        monkeypatch.setenv("HF_TOKEN", hf_hub.TOKEN)
        assert base.load(hf_hub.NAME).folder.name == FIRST


@pytest.mark.parametrize(
    ("kind", "status"), [(GatedRepoError, 403), (RepositoryNotFoundError, 404), (HfHubHTTPError, 401)]
)
def test_every_way_of_the_hub_to_say_that_it_may_not_is_told_so(kind, status, monkeypatch):
    class Response:
        status_code, headers, request = status, {}, None

    def refuse(*_, **__):
        raise kind("no", response=Response())

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(RecipeError, match=TOLD.format("somebody/svd")):
        base.load("somebody/svd")
