"""Mobile video diffusion: from Stable Video Diffusion to a one-step network for phones (arXiv 2412.07583)."""

METAFLOW_PACKAGE_POLICY = "include"
