"""The pocket image encoder: a two-layer CLIP vision tower whose token tells the frame's layout of colours.

Trained to predict the frame's 8 x 4 thumbnail from its 64-number token; SVD's own tower was trained on captions.
"""

from pathlib import Path

import corpus
import torch
import torch.nn.functional as F
from resumable import Plan, train
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from mobilevd.svd.conditioning import image_tokens

CONFIG = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 224,
    "patch_size": 32,
    "projection_dim": 64,
}
THUMBNAIL = (4, 8)
FRAMES_PER_STEP = 16


class ThumbnailReader(nn.Module):
    """Tower and linear reader, trained together; only the tower is kept."""

    def __init__(self):
        super().__init__()
        self.tower = CLIPVisionModelWithProjection(CLIPVisionConfig(**CONFIG))
        self.reader = nn.Linear(CONFIG["projection_dim"], 3 * THUMBNAIL[0] * THUMBNAIL[1])


def train_image_encoder(paths: list[Path], plan: Plan, folder: Path) -> CLIPVisionModelWithProjection:
    """Train the tower on random frames of the corpus."""
    torch.manual_seed(plan.seed)
    frames = torch.cat([corpus.load(path)[::4] for path in paths[::2]])
    net = ThumbnailReader()
    return train(net, lambda generator: _loss(net, frames, generator), plan, folder).tower


def _loss(net: ThumbnailReader, frames: Tensor, generator: torch.Generator) -> Tensor:
    picked = torch.randint(len(frames), (FRAMES_PER_STEP,), generator=generator)
    images = frames[picked].float().div(255)
    thumbnails = F.adaptive_avg_pool2d(images, THUMBNAIL).flatten(1)
    token = image_tokens(net.tower, images)[:, 0]
    return F.mse_loss(net.reader(token), thumbnails) + 1e-3 * (token.std() - 1).square()
