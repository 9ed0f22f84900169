"""Candidate → champion on a stored passing verdict, or back to a former champion: choose, check, switch, announce."""

import os
import sys
from itertools import pairwise

from base_flow import RecipeFlow
from metaflow import Parameter, card, current, step
from metaflow.cards import Table
from metaflow.integrations import ArgoEvent

from mobilevd.secrecy import sanitised


class PromoteFlow(RecipeFlow):
    """choose → check → switch → announce: every refusal ends the run with an error code and leaves all as it was."""

    version = Parameter("version", default="", help="The version (default: the newest, or the former champion).")
    back = Parameter("rollback", default=False, type=bool, help="Go back to a former champion.")
    why = Parameter("why", default="", help="The reason, for the ledger; a rollback needs one.")

    @step
    def start(self):
        """Choose the version, and remember the state of the ledger that the choice was made on."""
        from mobilevd.stages import promote

        self.model = self.checked_recipe().registry.model
        choose = promote.former if self.back else promote.candidate
        self.wanted = self.plainly(choose, self.model, self.version or None, self.why).model_dump()
        self.next(self.check)

    @step
    def check(self):
        """Re-hash the bundle, read its stored gate report, compare protocols, animate a fixed image."""
        from mobilevd.registry.ledger import Wanted
        from mobilevd.stages import promote

        self.checked = self.plainly(promote.check, self.model, Wanted(**self.wanted)).model_dump()
        self.next(self.switch)

    @card(type="blank")
    @step
    def switch(self):
        """Write the ledger's next entry, unless another switch came first; the aliases follow it."""
        from mobilevd.registry.ledger import Checked
        from mobilevd.stages import promote

        entry = self.plainly(promote.switch, self.model, Checked(**self.checked))
        self.entry = entry.model_dump(mode="json")
        current.card.append(Table([[name, str(value)] for name, value in self.entry.items()]))
        self.next(self.announce)

    @step
    def announce(self):
        """Tell the webhook, and flows that wait for Metaflow's event where those are deployed."""
        from mobilevd.registry.ledger import Entry
        from mobilevd.stages import promote

        if "ARGO_WORKFLOW_TEMPLATE" in os.environ:  # deployed: elsewhere nobody waits for Metaflow's event
            ArgoEvent("mobilevd-champion", payload=self.entry).safe_publish(ignore_errors=False)
        self.plainly(promote.announce, self.model, Entry(**self.entry))
        self.next(self.end)

    @step
    def end(self):
        """Say who is champion, and tag the runs that it came of."""
        from watched import crown

        from mobilevd.registry.ledger import Entry

        entry = Entry(**self.entry)
        with self.watched():
            crown(self.model, entry.to_version)
        print(f"{self.model}: {entry.line}")


def without_secrets(words: list[str]) -> list[str]:
    """The command line with nothing in its reason that opens a door: Metaflow keeps parameters as they were given."""
    return [
        sanitised(word) if before == "--why" or word.startswith("--why=") else word
        for before, word in pairwise(["", *words])
    ]


if __name__ == "__main__":
    sys.argv = without_secrets(sys.argv)
    PromoteFlow()
