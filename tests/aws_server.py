"""moto's server that knows AWS's own policies, and tells of a budget whom it warns and its tags, as Terraform asks."""

import json
import os
import sys

os.environ.setdefault("MOTO_IAM_LOAD_MANAGED_POLICIES", "true")

from moto.budgets.models import Notification
from moto.budgets.responses import BudgetsResponse
from moto.server import main

TAGS: dict[str, list[dict]] = {}
create = BudgetsResponse.create_budget


def create_budget(self: BudgetsResponse) -> str:
    """CreateBudget, whose tags are kept."""
    TAGS[self._get_param("Budget")["BudgetName"]] = self._get_param("ResourceTags") or []
    return create(self)


def describe_subscribers_for_notification(self: BudgetsResponse) -> str:
    """DescribeSubscribersForNotification: those that came with it."""
    budget = self.backend.budgets[self._get_param("AccountId")][self._get_param("BudgetName")]
    found: list[Notification] = [n for n in budget.notifications if n.details == self._get_param("Notification")]
    return json.dumps({"Subscribers": [told for n in found for told in n.subscribers]})


def list_tags_for_resource(self: BudgetsResponse) -> str:
    """ListTagsForResource of arn:aws:budgets::ACCOUNT:budget/NAME."""
    return json.dumps({"ResourceTags": TAGS[self._get_param("ResourceARN").rpartition("/")[2]]})


for action in (create_budget, describe_subscribers_for_notification, list_tags_for_resource):
    setattr(BudgetsResponse, action.__name__, action)

if __name__ == "__main__":
    main(sys.argv[1:])
