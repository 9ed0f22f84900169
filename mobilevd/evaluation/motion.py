"""What FVD hides: does it move, jerk or loop, is it the first frame copied, is it the image asked for, in its colours?

**Keeps** a frozen clip has energy 0 and copy rate 1, steady change no flicker (``tests/evaluation/test_motion.py``);
a collapsed model is told by its own figure (``tests/evaluation/test_collapse.py``).
**Axes** N F C H W, pixels in [0, 1] (bytes are divided by 255); one figure per clip unless said otherwise.
"""

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional

from mobilevd.errors import DataError

Clips = Float[Tensor, "N F 3 H W"] | UInt8[Tensor, "N F 3 H W"]
PerClip = Float[Tensor, " N"]

COPY_TOLERANCE = 2 / 255  # ours: two grey levels, what an autoencoder's rounding may change in a copied frame
MIN_ENERGY = 1e-6  # full scale; below it the real clips stand still and no ratio to them means anything
CELLS = 4  # per side
GREY_LEVEL = 1 / 255
BLANK = GREY_LEVEL  # full scale: a frame that varies less than this shows nothing


def figures(
    video: Clips, real: Float[Tensor, "M F 3 H W"] | UInt8[Tensor, "M F 3 H W"], paired: bool = True
) -> dict[str, float]:
    """Every figure of one contender beside the real clips, see ``summary``; with ``paired`` clips (one input each, in
    one order) also ``input_adherence``, where the inputs differ. Errors: DataError as below."""
    known = per_clip(video) | ({"input_adherence": input_adherence(video, real[:, 0])} if paired else {})
    return summary(known, per_clip(real))


def per_clip(video: Clips) -> dict[str, PerClip]:
    """Each clip's own figures, of which ``summary`` makes a contender's. Errors: DataError for clips of other shape."""
    return {
        "energy": energy(video),
        "flicker": flicker(video),
        "first_frame_copy_rate": first_frame_copy_rate(video),
        "colour_entropy": colour_entropy(video),
        "blank_share": blank_share(video),
        "loop_score": loop_score(video),
    }


def summary(made: Mapping[str, PerClip], real: Mapping[str, Float[Tensor, " M"]]) -> dict[str, float]:
    """``*_ratio`` is over the real clips' figure; the others are means over clips.

    Real clips' flicker counts as one grey level at least: what is below is not seen. Errors: DataError for still clips.
    """
    mean = {name: values.mean().item() for name, values in made.items() if name != "energy"}
    return mean | {
        "motion_ratio": _ratio(made["energy"], real["energy"]),
        "flicker_ratio": mean["flicker"] / max(real["flicker"].mean().item(), GREY_LEVEL),
        "colour_entropy_ratio": mean["colour_entropy"] / max(real["colour_entropy"].mean().item(), 1e-6),
    }


def shuffled(frames: int, seed: int) -> Int64[Tensor, " F"]:
    """An order of frames for reference: the first, which was given, then the others in any order."""
    later = torch.randperm(frames - 1, generator=torch.Generator().manual_seed(seed)) + 1
    return torch.cat([torch.zeros(1, dtype=torch.long), later])


def energy(video: Clips) -> PerClip:
    """Motion energy: mean absolute difference of successive frames, in full scale per frame (0 to 1)."""
    return torch.stack([clip.diff(dim=0).abs().mean() for clip in _each(video, frames=2)])


def energy_ratio(video: Clips, real: Float[Tensor, "M F 3 H W"] | UInt8[Tensor, "M F 3 H W"]) -> float:
    """Mean motion energy over the real clips' (no unit; 1 is as lively as real, 0 is frozen).

    Errors: DataError when the real clips do not move.
    """
    return _ratio(energy(video), energy(real))


def first_frame_distance(video: Clips) -> Float[Tensor, "N F-1"]:
    """Mean absolute difference of each later frame to the first, in full scale (0: the same picture)."""
    return torch.stack([(clip[1:] - clip[:1]).abs().mean(dim=(1, 2, 3)) for clip in _each(video, frames=2)])


def first_frame_copy_rate(video: Clips, tolerance: float = COPY_TOLERANCE) -> PerClip:
    """Share of the later frames that lie within ``tolerance`` (full scale) of the first; 1 for a frozen clip."""
    return (first_frame_distance(video) <= tolerance).float().mean(dim=1)


def flicker(video: Clips) -> PerClip:
    """Mean absolute second difference of the mean colours of 4x4 cells, in full scale per frame².

    Motion averages out in a cell, brightness that comes and goes does not; 0 when all of it changes steadily.
    Errors: DataError for fewer than three frames.
    """
    cells = (functional.adaptive_avg_pool2d(clip, CELLS) for clip in _each(video, frames=3))
    return torch.stack([clip.diff(n=2, dim=0).abs().mean() for clip in cells])


def loop_score(video: Clips) -> PerClip:
    """1 − min_k d_k / d_1 over k from 2 to half the frames, at least 0; d_k: mean difference of frames k apart.

    1: frames come back exactly, as in a clip that loops; 0: frames only move away, or nothing moves at all.
    Errors: DataError for fewer than four frames.
    """
    return torch.stack([_loop(clip) for clip in _each(video, frames=4)])


def input_adherence(video: Clips, images: Float[Tensor, "N 3 H W"] | UInt8[Tensor, "N 3 H W"]) -> PerClip:
    """1 − (distance of a clip's first frame to its own image) / (mean distance to the other clips' images).

    1: the very image; 0 or below: no nearer to it than to any other, as of a model that ignores its input.
    Errors: DataError for fewer than two clips, another number of images, or images that are all the same.
    """
    if len(video) != len(images):
        raise DataError("Each clip needs its image", got=f"{len(images)} images", allowed=f"{len(video)}")
    return torch.stack([adherence(clip[0], images, k) for k, clip in enumerate(video)])


def adherence(
    first: Float[Tensor, "3 H W"] | UInt8[Tensor, "3 H W"],
    images: Float[Tensor, "N 3 H W"] | UInt8[Tensor, "N 3 H W"],
    k: int,
) -> Float[Tensor, ""]:
    """``input_adherence`` of one clip, by its ``first`` frame and the number ``k`` of its own image."""
    apart = torch.stack([(_unit_range(first) - _unit_range(image)).abs().mean() for image in images])
    between = torch.stack([(_unit_range(images[k]) - _unit_range(image)).abs().mean() for image in images])
    if between.max() < BLANK:
        raise DataError("The images are all the same", allowed="two images or more, to tell apart")
    others = (apart.sum() - apart[k]) / (len(images) - 1)
    return 1 - apart[k] / others.clamp_min(BLANK)


def blank_share(video: Clips) -> PerClip:
    """Share of the frames that show one colour only: black, as what is not a number becomes on the way to bytes."""
    return torch.stack([(clip.std(dim=(2, 3)).amax(1) < BLANK).float().mean() for clip in _each(video, frames=1)])


def colour_entropy(video: Clips, levels: int = 8) -> PerClip:
    """Shannon entropy, in bits, of the joint RGB histogram with ``levels`` per channel; at most 3·log2(levels).

    A clip of one flat colour has 0; a model that loses its colours falls below the real clips' figure.
    """
    return torch.stack([_entropy_bits(_colours(clip, levels)) for clip in _each(video, frames=1)])


def _ratio(made: Tensor, real: Tensor) -> float:
    reference = real.mean().item()
    if reference < MIN_ENERGY:
        raise DataError("The real clips do not move", got=reference, allowed=f"a mean energy above {MIN_ENERGY}")
    return made.mean().item() / reference


def _each(video: Tensor, frames: int) -> Iterator[Tensor]:
    """Clip by clip (memory stays that of one clip) as float32 in [0, 1]. Errors: DataError for shape or range."""
    if video.ndim != 5 or video.shape[2] != 3 or video.shape[1] < frames or len(video) == 0:
        allowed = f"[N F 3 H W], at least 1 clip and {frames} frames"
        raise DataError("These are no clips to measure", got=list(video.shape), allowed=allowed)
    for clip in video:
        yield _unit_range(clip)


def _unit_range(clip: Tensor) -> Tensor:
    x = clip.float() / 255 if clip.dtype == torch.uint8 else clip.float()
    low, high = x.min().item(), x.max().item()
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # NaN fails both
        raise DataError("Pixels leave their range", got=f"{low:.3g} to {high:.3g}", allowed="0 to 1, or bytes")
    return x


def _loop(clip: Tensor) -> Tensor:
    apart = [(clip[k:] - clip[:-k]).abs().mean() for k in range(1, len(clip) // 2 + 1)]
    if apart[0] < MIN_ENERGY:
        return torch.zeros(())
    return (1 - torch.stack(apart[1:]).min() / apart[0]).clamp_min(0)


def _colours(clip: Tensor, levels: int) -> Tensor:
    """How often each of the ``levels``³ colours occurs, from pixels F 3 H W."""
    red, green, blue = (clip * levels).long().clamp(0, levels - 1).unbind(dim=1)
    return torch.bincount(((red * levels + green) * levels + blue).flatten(), minlength=levels**3)


def _entropy_bits(counts: Tensor) -> Tensor:
    return torch.special.entr(counts / counts.sum()).sum() / torch.log(torch.tensor(2.0))
