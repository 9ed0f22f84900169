"""The one evaluation starts from the still clip under little noise, not at σ_max from noise alone.

**Source** none in MobileVD or SF-V, whose generators start at σ_max. An image-to-video network that starts later, from
noise around a mean of the data: Analytic-Init (Zhao et al. 2024, arXiv 2406.15735); here the mean is the first frame,
repeated. **Changes** what is denoised, and the σ that the network is told.
**Keeps** every weight and key (``tests/method/test_still_start.py``).
"""

from torch import nn

from mobilevd.errors import SurgeryError
from mobilevd.svd.scheduler import SIGMA_MAX
from mobilevd.svd.start import Start
from mobilevd.svd.unet import only_svd

OP = "still_start"


def apply(unet: nn.Module, sigma: float, image_scale: float) -> dict:
    """Let ``OneStep`` start ``unet`` at noise level ``sigma`` around the still clip; return the log entry.

    ``image_scale``: brings raw first-frame latents to the clip's scale; the autoencoder's scaling factor.
    Errors: SurgeryError for a σ outside of (0, σ_max), a scale that is not positive, or a network that is not SVD's or
    starts so already.
    """
    only_svd(unet, OP)
    if not 0 < sigma < SIGMA_MAX:
        allowed = f"above 0 and below {SIGMA_MAX:g}, where SVD starts"
        raise SurgeryError("No noise level to start at", got=sigma, allowed=allowed, where=f"{OP}.sigma")
    if not image_scale > 0:
        raise SurgeryError("The first frame would not be seen", got=image_scale, allowed="above 0", where="image_scale")
    if unet.start is not None:
        raise SurgeryError("The network starts from the still clip already", allowed="once per network", where=OP)
    unet.start = Start(float(sigma), float(image_scale))
    return {"op": OP, "sigma": float(sigma), "image_scale": float(image_scale)}
