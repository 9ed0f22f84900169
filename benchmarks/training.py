"""The trainer beside a plain loop of diffusers' kind, same clips, draws, losses. ``python benchmarks/training.py``

The plain loop reads pixels, encodes them at every step, keeps plain cross-attention, and has the discriminator's whole
encoder in autograd, for fakes and real clips, in both turns. Ours are the real stages. Both run in every precision that
the processor has, and ours is held against the plain loop in the same one and in fp32. Each measurement is a process of
its own, all take turns, medians of processor seconds count; exit code 1 when a limit is missed in the best precision.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RECIPE = """
name: training-benchmark
from: params.yaml
prepare: {windows_per_source: 2, rendered: {train_per_photo: 1, validation_per_photo: 1}}
training: {health: {clips: 1}}
distill: {adversarial: {head_start: 0}}
"""
FEWEST = {"min_train_clips": 4, "min_validation_clips": 1}
PRECISIONS = ("fp32", "bf16")
LIMITS = {"finetune": 1.8, "distill": 1.5}  # times as fast
MEMORY, LOADING = 0.7, 0.03  # of the plain loop's peak; of a step
LOSSES_APART = 0.02  # our latents are kept in half precision
WARM, COMPARED = 1, 3  # steps that are not timed; steps whose losses are compared


def main() -> int:
    """Measure everything and print it; returns 1 when a limit is missed."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--steps", type=int, default=6, help="timed steps of each process")
    options.add_argument("--rounds", type=int, default=3, help="processes of each kind")
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--stage", choices=LIMITS, action="append", help="only this stage")
    options.add_argument("--precision", choices=PRECISIONS, action="append", help="only this one, and fp32")
    options.add_argument("--json", action="store_true", help="figures as JSON")
    options.add_argument("--child", nargs="*", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.child:
        print(json.dumps(CHILDREN[given.child[0]](*given.child[1:])))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        child(given.threads, "prepare", folder)
        found = {}
        for stage in given.stage or LIMITS:
            runs = {f"{who} {p}": [] for p in precisions(given.precision) for who in ("plain", "ours")}
            for _ in range(given.rounds):
                for who, kept in runs.items():
                    kept.append(child(given.threads, *who.split(), stage, folder, str(given.steps)))
            found[stage] = {who: joined(kept) for who, kept in runs.items()}
    print(json.dumps(found, indent=2)) if given.json else None
    kept = [max([judged(stage, p, runs) for p in PRECISIONS if f"ours {p}" in runs]) for stage, runs in found.items()]
    return int(not all(kept))


def precisions(asked: list[str] | None) -> list[str]:
    """fp32, and what was asked for; nothing: bf16 where the processor has it."""
    if asked is None:
        asked = ["bf16"] if child(1, "has", "bf16") else []
    return ["fp32", *(p for p in asked if p != "fp32")]


def child(threads: int, *words: str) -> dict:
    """The figures of one process; this one imports nothing heavy, for a child's peak counts its parent's memory."""
    own = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    command = [sys.executable, __file__, "--child", *words]
    done = subprocess.run(command, env=own, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def joined(runs: list[dict]) -> dict:
    """Medians over all steps and all processes of one kind; the parts of a step as shares of it."""
    parts = sum((Counter(run["parts"]) for run in runs), Counter())
    total = sum(sum(run["steps"]) for run in runs)
    return {
        "step_s": statistics.median(second for run in runs for second in run["steps"]),
        "peak_mb": statistics.median(run["peak_mb"] for run in runs),
        "losses": runs[0]["losses"],
        "shares": {name: parts[name] / total for name in sorted(parts, key=parts.get, reverse=True)},
    }


def judged(stage: str, precision: str, runs: dict[str, dict]) -> bool:
    """Print one stage's comparison in one precision; whether it keeps its limits beside the plain loop in fp32."""
    plain, alike, ours = runs["plain fp32"], runs[f"plain {precision}"], runs[f"ours {precision}"]
    faster, memory = plain["step_s"] / ours["step_s"], ours["peak_mb"] / plain["peak_mb"]
    apart = max(abs(a - b) / abs(b) for a, b in zip(ours["losses"], plain["losses"], strict=True))
    loading = ours["shares"].get("clips", 0.0)
    print(f"{stage}: {plain['step_s']:.3f} s a step by the plain loop, {ours['step_s']:.3f} s by ours in {precision}:")
    print(f"  {faster:.2f} times as fast, at least {LIMITS[stage]:g}", end="")
    same = alike["step_s"] / ours["step_s"]
    print("" if precision == "fp32" else f"; the plain loop in {precision} {alike['step_s']:.3f} s: {same:.2f} times")
    print(f"  peak memory {ours['peak_mb']:.0f} of {plain['peak_mb']:.0f} MB: {memory:.2f}, at most {MEMORY:g}")
    print(f"  reading clips {loading:.2%} of a step, at most {LOADING:.0%}")
    print(f"  losses of the first {COMPARED} steps differ by at most {apart:.1e} of them, at most {LOSSES_APART:g}")
    for who, run in (("plain", alike), ("ours", ours)):
        shares = run["shares"] | {"all else": 1.0 - sum(run["shares"].values())}
        print(f"  {who}: " + ", ".join(f"{name} {share:.1%}" for name, share in shares.items()))
    return faster >= LIMITS[stage] and memory <= MEMORY and loading <= LOADING and apart <= LOSSES_APART


class Clock:
    """Processor seconds of every step, and of the named parts of all steps that are timed."""

    def __init__(self, steps: int):
        self.wanted, self.began, self.parts, self.losses = WARM + steps, [], Counter(), []

    def step(self) -> None:
        """A step begins here. Errors: Enough when all wanted ones are over."""
        self.began.append(time.process_time())
        if len(self.began) == WARM + 1:
            self.parts.clear()
        if len(self.began) > self.wanted:
            raise Enough

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What is done inside counts as ``name``."""
        began = time.process_time()
        yield
        self.parts[name] += time.process_time() - began

    def watch(self, owner: object, method: str, name: str) -> None:
        """Count every call of a method or a module's function as ``name``, in which {0.…} is its first argument."""
        inner = getattr(owner, method)

        def timed(*given, **named):
            with self.part(name.format(*given)):
                return inner(*given, **named)

        setattr(owner, method, timed)

    def figures(self) -> dict:
        steps = [b - a for a, b in zip(self.began, self.began[1:], strict=False)][WARM:]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return {"steps": steps, "parts": dict(self.parts), "losses": self.losses[:COMPARED], "peak_mb": peak}


class Enough(Exception):  # noqa: N818 (nothing is wrong)
    """All steps were timed."""


def recipe(folder: str, precision: str = "fp32"):
    from mobilevd import params

    path = Path(folder) / "recipe.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    read = params.load(path)
    training = read.training.model_copy(update={"precision": precision})
    return read.model_copy(update={"prepare": read.prepare.model_copy(update=FEWEST), "training": training})


def prepare(folder: str) -> dict:
    """Prepared clips, and a finetuned network that is the base in all but its edit: one step of next to no length."""
    from mobilevd.stages import finetune, prepare

    made, home = recipe(folder), Path(folder)
    inputs = {"prepare": prepare.run(made, {}, home / "prepare")}
    still = {"steps": 1, "optim": made.finetune.optim.model_copy(update={"lr": 1.0e-12})}
    short = made.model_copy(update={"finetune": made.finetune.model_copy(update=still)})
    inputs["finetune"] = finetune.run(short, inputs, home / "finetune")
    for name, record in inputs.items():
        record.save(home / f"{name}.json")
    return {"clips": inputs["prepare"].figures["prepare.train_clips"]}


def ours(precision: str, stage: str, folder: str, steps: str) -> dict:
    """The real stage, left when enough steps were timed."""
    import importlib

    from mobilevd.artifacts import StageRecord
    from mobilevd.method import adversarial
    from mobilevd.svd.unet import VideoUNet
    from mobilevd.training import data
    from mobilevd.training.learner import Learner

    clock, parts, gather = Clock(int(steps)), data.Feed.parts, Learner.gather

    def beginning(self, step):
        clock.step()
        return parts(self, step)

    def heard(self, loss, *given):
        clock.losses.append(float(loss.detach()))
        gather(self, loss, *given)

    data.Feed.parts, Learner.gather = beginning, heard
    for owner, method, name in (
        (data.Feed, "_batch", "clips"),
        (VideoUNet, "forward", "network forward"),
        (VideoUNet, "encode", "encoder forward"),
        (adversarial, "_believed", "heads in the generator's turn"),
        (adversarial, "_block", "heads in the discriminator's turn"),
        (Learner, "gather", "backward of the {0.name}"),
        (Learner, "ready", "clip, optimizer, average"),
        (Learner, "move", "clip, optimizer, average"),
    ):
        clock.watch(owner, method, name)
    records = {
        n: StageRecord.model_validate_json((Path(folder) / f"{n}.json").read_bytes()) for n in ("prepare", "finetune")
    }
    with tempfile.TemporaryDirectory(dir=folder) as workdir:
        try:
            importlib.import_module(f"mobilevd.stages.{stage}").run(recipe(folder, precision), records, Path(workdir))
        except Enough:
            return clock.figures()
    raise RuntimeError("the recipe has fewer steps than were to be timed")


def plain(precision: str, stage: str, folder: str, steps: str) -> dict:
    """A loop as it is usually written; in half precision under torch's own autocast."""
    import torch

    from mobilevd.method.discriminator import Discriminator
    from mobilevd.svd.unet import VideoUNet

    clock = Clock(int(steps))
    for owner, method, name in (
        (VideoUNet, "forward", "network forward"),
        (VideoUNet, "encode", "encoder forward"),
        (Discriminator, "forward", "heads forward"),
    ):
        clock.watch(owner, method, name)
    loop = {"finetune": PlainFinetune, "distill": PlainDistill}[stage](recipe(folder), Path(folder), clock)
    try:
        for step in range(10**6):
            clock.step()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                loop.take(step)
    except Enough:
        return clock.figures()


class Plain:
    """What both plain loops share: pixels read and encoded in the loop, torch's AdamW, diffusers' average."""

    def __init__(self, made, folder: Path, clock: Clock, stage: str):
        from diffusers.training_utils import EMAModel
        from safetensors import safe_open

        from mobilevd.svd import base as bases
        from mobilevd.svd import conditioning
        from mobilevd.training import data, seeds

        self.recipe, self.clock, self.seed = made, clock, seeds.derive(made.seed, stage)
        self.pixels = safe_open(folder / "prepare" / "clips" / "train.safetensors", "pt").get_slice("video")
        self.count, self.share, self.order = self.pixels.get_shape()[0], data.Share(1), data.indices
        at = made.evaluate
        self.ids = conditioning.added_ids(1, made.clip.fps, made.training.motion_bucket, at.augmentation_sigma)
        self.base = bases.load(made.base)
        self.network, self.random = self.base.unet().train(), seeds.generator
        self.average = EMAModel(self.network.parameters(), decay=0.95)

    def clip(self, step: int):
        """(clean latents, condition, this step's generator) of one clip, from its pixels."""
        from mobilevd.svd.edm import Condition

        index = self.order(self.count, self.share, self.seed, step)[0]
        with self.clock.part("clips"):
            video = self.pixels[index]
        with self.clock.part("encoding"):
            encoded = {name: tensor.float()[None] for name, tensor in self.base.encode(video).items()}
        condition = Condition(encoded["image_latents"], encoded["tokens"], self.ids)
        return encoded["latents"], condition, self.random(self.seed, "step", step, "clip", 0)

    def optimizer(self, module, settings):
        import torch

        return torch.optim.AdamW(module.parameters(), settings.lr, settings.betas, weight_decay=settings.weight_decay)

    def backward(self, name: str, loss) -> None:
        self.clock.losses.append(float(loss.detach()))
        with self.clock.part(f"backward of the {name}"):
            loss.backward()

    def move(self, optimizer, module, settings, step: int, steps: int) -> None:
        import torch

        from mobilevd.training import optim

        with self.clock.part("clip, optimizer, average"):
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * optim.share(step, steps, settings)
            torch.nn.utils.clip_grad_norm_(module.parameters(), settings.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            if module is self.network:
                self.average.step(module.parameters())


class PlainFinetune(Plain):
    def __init__(self, made, folder: Path, clock: Clock):
        from mobilevd.training import data

        super().__init__(made, folder, clock, "finetune")
        stored = data.Clips(folder / "prepare" / "latents" / "train.safetensors")
        self.image_std = float(stored.batch(list(range(min(64, len(stored))))).image_latents.std())
        self.moves = self.optimizer(self.network, made.finetune.optim)

    def take(self, step: int) -> None:
        from mobilevd.method import low_resolution

        s = self.recipe.finetune
        x0, condition, random = self.clip(step)
        draws = low_resolution.draw(x0, condition, s, self.image_std, random)
        self.backward("network", low_resolution.loss(self.network, x0, draws))
        self.move(self.moves, self.network, s.optim, step, s.steps)


class PlainDistill(Plain):
    def __init__(self, made, folder: Path, clock: Clock):
        from mobilevd.method import temporal_multiscale
        from mobilevd.method.discriminator import Discriminator

        super().__init__(made, folder, clock, "distill")
        self.s = made.distill.adversarial
        temporal_multiscale.apply(self.network, made.distill.temporal_multiscale.down)
        self.encoder = self.base.unet()
        random = self.random(self.seed, "heads")
        undivided = self.s.look == "before_downsampler"
        self.heads = Discriminator(self.encoder, self.s.heads, self.s.head_channels, random, undivided)
        self.encoder.requires_grad_(True)  # it is part of the discriminator, of which only the heads are moved
        self.moves = self.optimizer(self.network, self.s.generator)
        self.heads_move = self.optimizer(self.heads, self.s.discriminator)

    def take(self, step: int) -> None:
        from mobilevd.method import adversarial
        from mobilevd.svd.edm import denoise, over_frames

        s, heads = self.s, self.heads
        x0, condition, random = self.clip(step)
        draws = adversarial.draw(x0, s, random)
        fake = denoise(self.network, x0 + over_frames(draws.sigma) * draws.noise, draws.sigma, *condition)
        judged = heads(
            heads.features(fake, draws.fake_noise, draws.d_sigma, condition), draws.d_sigma, condition.tokens
        )
        rebuilt = adversarial.reconstruction(fake, x0, s)
        loss = s.adversarial_weight * adversarial.mean(judged) + s.reconstruction_weight * rebuilt
        self.backward("generator", loss)
        self.move(self.moves, self.network, s.generator, step, s.steps)
        for module in (heads, self.encoder):
            module.zero_grad()
        features = heads.features(x0, draws.real_noise, draws.d_sigma, condition)
        real = heads(features, draws.d_sigma, condition.tokens)
        false = heads.features(fake.detach(), draws.fake_noise, draws.d_sigma, condition)
        hinges = adversarial.hinge(real, 1) + adversarial.hinge(heads(false, draws.d_sigma, condition.tokens), -1)
        self.backward("discriminator", hinges + s.r1_gamma * adversarial.r1(real, features))
        self.move(self.heads_move, heads, s.discriminator, step, s.steps)
        self.encoder.zero_grad()


def has(precision: str) -> bool:
    """Whether this processor has arithmetic of that precision."""
    from mobilevd.training import precision as precisions

    return precisions.has(precision)


CHILDREN = {"prepare": prepare, "has": has, "ours": ours, "plain": plain}

if __name__ == "__main__":
    sys.exit(main())
