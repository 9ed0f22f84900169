"""The papers' protocol: what a model makes of the listed first frames, scored at 320x240, resumed, refused by name."""

import json
from dataclasses import asdict, replace

import pytest
import tiny_svd
import torch
import torch.nn.functional as F
import ucf
from safetensors.torch import load_file
from typer.testing import CliRunner

from mobilevd import cli
from mobilevd.errors import IntegrityError, MobileVDError
from mobilevd.evaluation import fingerprint, i3d, motion, report
from mobilevd.evaluation.fvd import frechet
from mobilevd.pipeline import MobileVDPipeline
from mobilevd.settings import Clip, Evaluate
from mobilevd.stages import spread, ucf101
from mobilevd.video import ucf101 as listing

CLIP = Clip(frames=9, fps=25.0, width=64, height=64)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def data(home):
    return ucf.lay(home)


@pytest.fixture(scope="module")
def job(home, data) -> ucf101.Job:
    listing.listed(data, "testlist01", CLIP, at_most=2).save(home / "m.jsonl")
    bundle = tiny_svd.write_bundle(home / "bundle", frames=9).path
    return ucf101.Job(str(home / "m.jsonl"), str(data), str(bundle), teacher=False, seed=3)


@pytest.fixture(scope="module")
def made(job, home) -> report.Report:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(spread.PROCESSES, "1")
        return ucf101.run(job, home / "out")


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    monkeypatch.setenv(spread.PROCESSES, "1")


def test_scores_are_those_of_the_models_clips_at_320x240(made, job, data, home):
    manifest, pipeline = listing.read(home / "m.jsonl"), MobileVDPipeline.from_pretrained(job.model)
    real = torch.stack([listing.frames(data, manifest, k) for k in range(2)])
    clips = []
    for k in range(2):
        first = ucf101._straight(real[k, 0], CLIP)
        assert first.shape == (3, 64, 64)
        clips.append(pipeline(first, seed=3 * 100_003 + k, fps=25.0).frames)
    fake = torch.stack(clips)
    net = i3d.load()
    expected = frechet(i3d.features(real, net, "tf-reference"), i3d.features(fake, net, "sf-v"))
    assert made.figures["fvd"].value == pytest.approx(expected, rel=1e-4)
    small = F.interpolate(fake.flatten(0, 1).float(), (240, 320), mode="bilinear", antialias=True)
    energy = motion.energy(small.round().to(torch.uint8).unflatten(0, (2, 9)))
    assert made.figures["motion_ratio"].value == pytest.approx((energy.mean() / motion.energy(real).mean()).item())
    assert report.read(home / "out" / "report.json") == made
    assert (made.fingerprint.resize, made.fingerprint.crop, made.fingerprint.fps) == ("sf-v", "none", 25.0)


def test_killed_run_goes_on_and_another_job_starts_anew(made, job, home):
    kept, lost = (ucf101._place(home / "out", k) for k in (0, 1))
    before, stamp = load_file(lost), kept.stat().st_mtime_ns
    lost.unlink()
    assert ucf101.run(job, home / "out") == made
    assert kept.stat().st_mtime_ns == stamp
    assert all(torch.equal(value, before[name]) for name, value in load_file(lost).items())
    ucf101._open(replace(job, seed=4), listing.read(home / "m.jsonl"), home / "out")
    assert not kept.exists()


def test_teacher_samples_the_base_with_guidance(home, monkeypatch):
    monkeypatch.setattr(ucf101, "Evaluate", lambda: Evaluate(teacher_steps=2))
    base = tiny_svd.write_base(home / "base", frames=9)
    make = ucf101._teacher(str(base), CLIP, torch.device("cpu"))
    frame = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    clip = make(frame, 1)
    assert (clip.shape, clip.dtype) == ((9, 3, 64, 64), torch.uint8)
    assert torch.equal(make(frame, 1), clip)
    assert not torch.equal(make(frame, 2), clip)


def test_a_teacher_can_be_sampled_without_guidance_at_low_noise_and_is_another_job_then(home, job, monkeypatch):
    monkeypatch.setattr(ucf101, "Evaluate", lambda: Evaluate(teacher_steps=2))
    base = str(tiny_svd.write_base(home / "base", frames=9))
    frame = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    jobs = [replace(job, model=base, teacher=True, guidance_above=above) for above in (0.0, 1.0, 1000.0)]
    guided, low, never = (ucf101._maker(job, CLIP, torch.device("cpu"))(frame, 1) for job in jobs)
    assert not torch.equal(guided, low)
    assert not torch.equal(low, never)
    digests = []
    for asked in jobs:
        ucf101._open(asked, listing.read(home / "m.jsonl"), home / "teacher")
        digests.append(json.loads((home / "teacher" / "job.json").read_text())["digest"])
    assert len(set(digests)) == 3
    told = {name: value for name, value in asdict(jobs[0]).items() if name != "guidance_above"}
    told |= {"manifest": fingerprint.digest(asdict(listing.read(home / "m.jsonl"))), "data": ""}
    told |= {"model": ucf101._model_digest(jobs[0])}
    assert digests[0] == fingerprint.digest(told), "a job that was begun before there was a choice goes on"


def test_steps_are_no_part_of_the_protocol_and_seed_and_clips_are(job, home):
    manifest = listing.read(home / "m.jsonl")
    own = ucf101._protocol(job, manifest)
    assert ucf101._protocol(replace(job, teacher=True, data="elsewhere"), manifest) == own
    assert ucf101._protocol(replace(job, seed=4), manifest).digest != own.digest
    assert ucf101._protocol(job, replace(manifest, clips=manifest.clips[:1])).digest != own.digest


def test_model_of_another_size_no_bundle_and_one_clip_are_refused(job, home, data):
    with pytest.raises(MobileVDError, match="no bundle"):
        ucf101.run(replace(job, model=str(data)), home / "refused")
    manifest = listing.read(home / "m.jsonl")
    replace(manifest, width=128).save(home / "wide.jsonl")
    with pytest.raises(MobileVDError, match=r"another size(.|\n)*\(9, 128, 64\)"):
        ucf101.run(replace(job, manifest=str(home / "wide.jsonl")), home / "refused")
    replace(manifest, clips=manifest.clips[:1]).save(home / "one.jsonl")
    with pytest.raises(MobileVDError, match="Too few clips"):
        ucf101.run(replace(job, manifest=str(home / "one.jsonl")), home / "refused")
    wrong = replace(manifest, clips=tuple(replace(line, sha256="0" * 64) for line in manifest.clips))
    wrong.save(home / "wrong.jsonl")
    with pytest.raises(IntegrityError, match="not the manifest's"):
        ucf101.run(replace(job, manifest=str(home / "wrong.jsonl")), home / "refused")


def test_the_command_refuses_guidance_of_a_student_before_any_work(home, data):
    words = ["ucf101", "score", str(home / "m.jsonl"), str(data), "--model", "x", "--out", str(home / "no")]
    ended = CliRunner().invoke(cli.app, [*words, "--guidance-above", "1"])
    assert ended.exit_code == 1
    assert "A student has no guidance" in str(ended.exception)
    assert not (home / "no").exists()
