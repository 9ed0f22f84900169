"""A flow of one task, which fails for good with a message that holds secrets: ``python leaking_flow.py run``."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "flows"))

from base_flow import RecipeFlow
from metaflow import Config, step

SMOKE = Path(__file__).parents[1] / "recipes" / "smoke.yaml"


class LeakingFlow(RecipeFlow):
    recipe = Config("recipe", default=str(SMOKE), parser="mobilevd.params.parse")

    @step
    def start(self):
        with self.watched():
            raise OSError(f"401 token={os.environ['QAIHUB_API_TOKEN']} for https://user:planted@host/x")
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    LeakingFlow()
