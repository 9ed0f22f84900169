"""Axis legend, and the array names made of it.

B batch · F frames · C channels · H height · W width · D features · N clips or tokens · K candidates.
Pixels are RGB in [0, 1] unless a name says ``_uint8``; latents are scaled (unit variance) unless a name says ``_raw``.
"""

from jaxtyping import Float, UInt8
from torch import Tensor

Latents = Float[Tensor, "B F C H W"]
Video = Float[Tensor, "B F 3 H W"]
VideoUint8 = UInt8[Tensor, "B F 3 H W"]
Images = Float[Tensor, "B 3 H W"]
Tokens = Float[Tensor, "B 1 D"]
AddedIds = Float[Tensor, "B 3"]
Sigmas = Float[Tensor, "B"]
Features = Float[Tensor, "N D"]
