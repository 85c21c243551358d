"""The outcomes of settling and of handling an event: one list of values, and the documented one."""

from __future__ import annotations

from pathlib import Path

import yaml

from paidup.payments.outcomes import EventOutcome, Outcome

OPENAPI = Path(__file__).parents[2] / "docs" / "openapi.yaml"


def test_every_settlement_outcome_is_an_event_outcome() -> None:
    assert {outcome.value for outcome in Outcome} <= {outcome.value for outcome in EventOutcome}


def test_the_documented_webhook_outcomes_are_the_enum() -> None:
    document = yaml.safe_load(OPENAPI.read_text())
    documented = document["components"]["schemas"]["Received"]["properties"]["outcome"]["enum"]
    assert documented == [outcome.value for outcome in EventOutcome]
