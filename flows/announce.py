"""The data moved: ``python flows/announce.py RECIPE``, after ``dvc add`` and ``dvc push``.

Puts data.dvc where the recipe reads its pin, and publishes the event that the deployed RetrainFlow waits for. The pin
moves first: a run that the event starts finds it. Announcing twice does no harm: a run with nothing to do rests.
"""

import argparse
import os
import sys
from pathlib import Path

from metaflow.integrations import ArgoEvent
from metaflow.plugins.argo.argo_events import ArgoEventException

from mobilevd import params, remote
from mobilevd.errors import MobileVDError
from mobilevd.params import Recipe
from mobilevd.video import pinned

WEBHOOK = "METAFLOW_ARGO_EVENTS_WEBHOOK_URL"


def announce(recipe: Recipe, pin: Path) -> str:
    """Move the pin and publish the event; returns what was done.

    Errors: MobileVDError when the recipe's pin is not on S3, the event has no name or address, or nobody takes it.
    """
    place, event = recipe.prepare.pin, recipe.retrain.event
    if place is None or not remote.is_remote(place):
        raise MobileVDError("The pin cannot move", got=place, allowed="s3://…", where="prepare.pin of the recipe")
    if event is None or not os.environ.get(WEBHOOK):
        where = f"retrain.event of the recipe, {WEBHOOK}"
        raise MobileVDError("Nobody would hear", got=f"event {event}", allowed="a name and an address", where=where)
    remote.write(place, pin.read_bytes())
    md5 = pinned.md5(recipe.prepare)
    try:
        ArgoEvent(event).publish(payload={"data_md5": md5}, ignore_errors=False)
    except ArgoEventException as error:
        raise MobileVDError(
            "The event was not taken", got=str(error), allowed="an event source", where=WEBHOOK
        ) from None
    return f"{place} pins {md5} now, and {event} was published"


def main() -> int:
    """The command line."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("recipe")
    options.add_argument("--pin", type=Path, default=Path("data.dvc"), help="the DVC file (default: data.dvc)")
    asked = options.parse_args()
    try:
        print(announce(params.load(asked.recipe), asked.pin))
    except MobileVDError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
