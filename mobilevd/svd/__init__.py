"""SVD: what a run starts from."""

import logging

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # whoever loads it: it warns of what is not used here
