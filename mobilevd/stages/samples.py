"""What a training shows of itself: a few validation clips as pictures, and the figures that tell a collapse.

Latents are shown by the linear map that fits the prepared clips best, one pixel per latent: the autoencoder is not
in memory while training. **Keeps** the figures are those of evaluation, on these pictures
(``tests/stages/test_samples.py``). **Axes** latents N F C H W, pictures N F 3 H W uint8.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from mobilevd import progress
from mobilevd.evaluation import motion
from mobilevd.stages import montage
from mobilevd.training import health

FIT_CLIPS = 8
STRIP = "samples.png"


@dataclass(frozen=True)
class Preview:
    """rgb = latents · ``weight`` + ``bias``; ``r2``: the share of the pixels' variance that this explains."""

    weight: Float[Tensor, "C 3"]
    bias: Float[Tensor, "3"]
    r2: float

    def __call__(self, latents: Float[Tensor, "N F C H W"]) -> UInt8[Tensor, "N F 3 H W"]:
        """Latents as small pictures."""
        rgb = latents.detach().cpu().double().movedim(2, -1) @ self.weight + self.bias
        return (rgb.clamp(0, 1) * 255).round().byte().movedim(-1, 2)


def fit(latents: Float[Tensor, "N F C H W"], video: UInt8[Tensor, "N F 3 Y X"]) -> Preview:
    """The least-squares map from latents to the mean colour of the pixels that each stands for."""
    size = latents.shape[-2:]
    pooled = [torch.nn.functional.adaptive_avg_pool2d(clip.double() / 255, size) for clip in video]  # one at a time
    small = torch.cat(pooled)
    seen = latents.flatten(0, 1).double().movedim(1, -1).flatten(0, 2)
    wanted = small.movedim(1, -1).flatten(0, 2)
    given = torch.cat([seen, torch.ones(len(seen), 1, dtype=torch.float64)], dim=1)
    solution = torch.linalg.lstsq(given, wanted, driver="gelsd").solution
    left = (given @ solution - wanted).var(dim=0).sum() / wanted.var(dim=0).sum().clamp_min(1e-12)
    return Preview(solution[:-1], solution[-1], 1.0 - float(left))


class Samples:
    """Given the outputs of a validation, its figures; a strip real above sampled goes to ``folder`` and to the card."""

    def __init__(self, preview: Preview, real: Float[Tensor, "N F C H W"], folder: Path, label: str):
        self._preview, self._real, self._folder, self._label = preview, preview(real), Path(folder), label

    def __call__(self, step: int, outputs: Float[Tensor, "M F C H W"]) -> dict[str, float]:
        """Figures of the first N outputs beside the real clips; a signature that differs when any output does."""
        outputs = outputs[: len(self._real)]
        if not outputs.isfinite().all():
            return {health.SIGNATURE: float("nan")}
        self._draw(step, self._preview(outputs))
        ramp = torch.linspace(0, 1, outputs.numel(), dtype=torch.float64, device=outputs.device)
        return figures(self._preview(outputs), self._real) | {
            health.SIGNATURE: float((outputs.double().flatten() * ramp).mean())
        }

    def _draw(self, step: int, video: Tensor) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        montage.strip({"real": self._real[0], "sampled": video[0]}, self._folder / STRIP)
        progress.picture(f"{self._label}, step {step}: real above sampled", self._folder / STRIP)


def figures(video: UInt8[Tensor, "N F 3 H W"], real: UInt8[Tensor, "N F 3 H W"]) -> dict[str, float]:
    """What the health watch judges; no loop score below four frames."""
    moving = max(motion.energy(real).mean().item(), motion.MIN_ENERGY)
    colourful = max(motion.colour_entropy(real).mean().item(), 1e-6)
    found = {
        health.MOTION: motion.energy(video).mean().item() / moving,
        health.COPIES: motion.first_frame_copy_rate(video).mean().item(),
        health.COLOURS: motion.colour_entropy(video).mean().item() / colourful,
    }
    return found if video.shape[1] < 4 else found | {health.LOOPS: motion.loop_score(video).mean().item()}
