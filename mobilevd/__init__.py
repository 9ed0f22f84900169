"""Mobile video diffusion: from Stable Video Diffusion to a one-step network for phones (arXiv 2412.07583)."""

import os

METAFLOW_PACKAGE_POLICY = "include"

# Without it botocore announces an empty upload with "Expect: 100-continue"; where a server answers at once, as those
# written in Go do, it takes the next upload's "100 Continue" for the answer, and waits out its read timeout of 60 s.
os.environ.setdefault("BOTO_EXPERIMENTAL__NO_EMPTY_CONTINUE", "true")
