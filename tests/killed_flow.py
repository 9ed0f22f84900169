"""A flow of one stage that says how often it ran; every first attempt is killed once the stage is finished.

``python killed_flow.py run``, in a folder of its own.
"""

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "flows"))

from base_flow import RecipeFlow
from metaflow import Config, card, current, step

from mobilevd.artifacts import StageRecord

RAN = Path("ran.txt")
SMOKE = Path(__file__).parents[1] / "recipes" / "smoke.yaml"


class KilledFlow(RecipeFlow):
    recipe = Config("recipe", default=str(SMOKE), parser="mobilevd.params.parse")

    @step
    def start(self):
        made = {"recipe_digest": self.checked_recipe().digest, "data_md5": "d"}
        self.run_folder = str(Path("runs").resolve())
        self.records = {"prepare": StageRecord(stage="prepare", **made).model_dump(mode="json")}
        self.next(self.work)

    @card(type="blank")
    @step
    def work(self):
        self.run_stage("work", stage)
        if current.retry_count == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.next(self.end)

    @step
    def end(self):
        print("the record is of time", self.records["work"]["figures"]["ran"])


def stage(recipe, inputs, workdir) -> StageRecord:
    with RAN.open("a") as ran:
        ran.write("x")
    ran = len(RAN.read_text())
    return StageRecord(stage="work", recipe_digest=recipe.digest, data_md5="d", figures={"ran": ran})


if __name__ == "__main__":
    KilledFlow()
