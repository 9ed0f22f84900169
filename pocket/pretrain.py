"""Make the pocket base: ``python pocket/pretrain.py all`` (hours on a CPU; stop it whenever, it goes on from there).

Stages: corpus → autoencoder → image-encoder → decoder, round by round → network → longer, round by round → export.
Everything seeded; state in ``.cache/pocket``. ``adopt`` puts the shipped weights there, and another round of
``decoder`` or ``longer`` goes on from them.
"""

import json
import platform
import sys
from pathlib import Path
from typing import Annotated

import torch
import typer

sys.path.insert(0, str(Path(__file__).resolve().parent))

import autoencoder
import corpus
import decoder
import image_encoder
import network
import photos
from resumable import Plan

from mobilevd import artifacts
from mobilevd.packages import project_root
from mobilevd.svd import scheduler
from mobilevd.svd.base import PARTS, Base
from mobilevd.svd.unet import VideoUNet, config_of

STATE = project_root() / ".cache" / "pocket"
BASE = project_root() / "pocket" / "base"
CLIPS_PER_PHOTO = 45
SIGMA_MIN = 0.9  # where sampling ends with the network's estimate; why: docs/decisions/0002-pocket-base.md
# Both decoder rounds ran with seed 0, the first by older code; give a next one another seed, or it sees the same clips.
PLANS = {
    "autoencoder": Plan(steps=1900, lr=6.0e-4, ema=0.995),
    "image_encoder": Plan(steps=150, lr=2.0e-3, ema=0.99),
    "decoder-1": Plan(steps=3000, lr=6.0e-4, ema=0.995, checkpoint_every=50),
    "decoder-2": Plan(steps=2600, lr=3.0e-4, ema=0.995, checkpoint_every=50),
    "network": Plan(steps=8000, lr=5.0e-4, warmup=100, ema=0.998, checkpoint_every=100),
    "longer-1": Plan(steps=7500, lr=3.0e-4, kind="muon", warmup=100, ema=0.998, checkpoint_every=100, seed=1),
    "longer-2": Plan(steps=5000, lr=3.0e-4, kind="muon", warmup=100, ema=0.998, checkpoint_every=100, seed=2),
    "longer-3": Plan(steps=6000, lr=3.0e-4, kind="muon", warmup=100, ema=0.998, checkpoint_every=100, seed=3),
    "longer-4": Plan(steps=8000, lr=3.0e-4, kind="muon", warmup=100, ema=0.998, checkpoint_every=100, seed=4),
}
DECODER_ROUNDS, NETWORK_ROUNDS = (sum(name.startswith(part) for name in PLANS) for part in ("decoder-", "longer-"))

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)


@app.command("corpus")
def make_corpus() -> list[Path]:
    """Render and cut the training clips (6.3 GB of pixels)."""
    return corpus.build(project_root() / "data", _more_photos(), STATE / "corpus", CLIPS_PER_PHOTO)


@app.command("autoencoder")
def make_autoencoder() -> None:
    """Train the autoencoder."""
    net = autoencoder.train_autoencoder(make_corpus(), PLANS["autoencoder"], STATE / "autoencoder")
    net.save_pretrained(STATE / "base" / "vae")


@app.command("image-encoder")
def make_image_encoder() -> None:
    """Train the image encoder."""
    net = image_encoder.train_image_encoder(make_corpus(), PLANS["image_encoder"], STATE / "image_encoder")
    net.save_pretrained(STATE / "base" / "image_encoder")


@app.command("decoder")
def make_decoder(lap: Annotated[int, typer.Argument(metavar="ROUND", min=1, max=DECODER_ROUNDS)]) -> None:
    """Train the decoder on by itself, by the plan of ROUND: what the latents cannot say is to look real."""
    base, stage = Base(STATE / "base"), f"decoder-{lap}"
    decoder.train_decoder(base.vae, make_corpus(), PLANS[stage], STATE / stage)
    base.vae.save_pretrained(STATE / "base" / "vae")


@app.command("network")
def make_network() -> None:
    """Train the UNet on the encoded corpus, from scratch."""
    scale = Base(STATE / "base").vae.config.scaling_factor
    _train_network("network", network.fresh(PLANS["network"].seed, scale))


@app.command("longer")
def make_network_longer(lap: Annotated[int, typer.Argument(metavar="ROUND", min=1, max=NETWORK_ROUNDS)]) -> None:
    """Train the UNet on from where it stands, by the plan of ROUND (``PLANS``); for one more, add a plan."""
    _train_network(f"longer-{lap}", Base(STATE / "base").unet())


@app.command()
def adopt() -> None:
    """Put the shipped weights where the stages look, so that training goes on from them."""
    base = Base(BASE)
    base.unet().save_pretrained(STATE / "base" / "unet")
    base.vae.save_pretrained(STATE / "base" / "vae")
    base.image_encoder.save_pretrained(STATE / "base" / "image_encoder")


@app.command()
def export() -> None:
    """Write the parts in half precision with their digests to pocket/base."""
    base = Base(STATE / "base")
    base.unet().half().save_pretrained(BASE / "unet")
    base.vae.half().save_pretrained(BASE / "vae")
    base.image_encoder.half().save_pretrained(BASE / "image_encoder")
    levels = {"sigma_min": SIGMA_MIN, "sigma_max": scheduler.SIGMA_MAX}
    artifacts.write_json(BASE / scheduler.CONFIG, {"_class_name": "EulerDiscreteScheduler"} | scheduler.NEEDED | levels)
    _forget_where_it_was()
    _write_facts()
    artifacts.seal(BASE)
    size = sum(p.stat().st_size for p in BASE.rglob("*.safetensors")) / 2**20
    typer.echo(f"{BASE}: {size:.1f} MiB of weights")


@app.command("all")
def everything() -> None:
    """Every stage in order."""
    make_autoencoder()
    make_image_encoder()
    for lap in range(1, DECODER_ROUNDS + 1):
        make_decoder(lap)
    make_network()
    for lap in range(1, NETWORK_ROUNDS + 1):
        make_network_longer(lap)
    export()


def _train_network(stage: str, start: VideoUNet) -> None:
    base = Base(STATE / "base")
    encoded = network.encode(base, make_corpus(), STATE)
    network.train_network(base, start, encoded, PLANS[stage], STATE / stage).save_pretrained(STATE / "base" / "unet")


def _forget_where_it_was() -> None:
    """diffusers notes the folder that a network was loaded from, which means nothing elsewhere, and our own class."""
    for path in BASE.glob("*/config.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        artifacts.write_json(path, {key: value for key, value in config.items() if key != "_name_or_path"})
    artifacts.write_json(BASE / "unet" / "config.json", config_of(VideoUNet.from_pretrained(BASE / "unet")))


def _write_facts() -> None:
    """How the weights came about: plans, losses along the way, data, versions."""
    before = json.loads((BASE / "training.json").read_text(encoding="utf-8"))["losses"]
    facts = {
        "plans": {part: vars(plan) for part, plan in PLANS.items()},
        "losses": {part: _last_loss(part) or before.get(part) for part in PLANS},
        "clips_per_photo": CLIPS_PER_PHOTO,
        "trained_on": sorted(p.name for folder in ("photos", "videos") for p in _sources(folder)),
        "decoder_2_and_longer_4_trained_on_too": sorted(p.name for p in _more_photos()),
        "parts": list(PARTS),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    artifacts.write_json(BASE / "training.json", facts)


def _last_loss(part: str) -> dict | None:
    """The last line of a stage's log; None where the stage was not run here but its weights adopted."""
    log = STATE / part / "log.jsonl"
    return json.loads(log.read_text(encoding="utf-8").splitlines()[-1]) if log.exists() else None


def _sources(folder: str) -> list[Path]:
    return corpus.train_sources(project_root() / "data" / folder)


def _more_photos() -> list[Path]:
    return photos.bring(STATE / "photos")


if __name__ == "__main__":
    app()
