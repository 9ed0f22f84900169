"""SVD: what a run starts from."""
