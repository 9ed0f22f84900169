"""One file per step of the pipeline."""
