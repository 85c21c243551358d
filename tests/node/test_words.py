"""The return page is written by the server: it has the texts and marks of the element, to the letter."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from msgspec.structs import replace

from paidup.domain.decisions import InvoiceStatus
from paidup.domain.messages import CheckoutMessage
from paidup.domain.stages import Stage
from paidup.runtime.clock import now
from paidup.runtime.return_page_file import ENGLISH
from paidup.web.return_markup import MARKS, PROCESSING, SIGNS, fill
from tests.support.node import ENVIRONMENT, NODE
from tests.support.processes import ROOT

PAGES_OWN = {"unknown", "unavailable", "page"}
"""What only a page says."""
PRINT = """
import { STATES, WORDS, marksOf } from "./words.js";
import { drawMark } from "./look.js";
import { phrase } from "./words.js";
const signs = {};
const mark = { querySelector: () => ({ setAttribute: (_, sign) => (signs[mark.as] = sign) }) };
for (mark.as of ["done", "now", "next", "paused", "failed"]) drawMark(mark, mark.as);
const marks = Object.fromEntries(STATES.map((state) => [state, marksOf(state, true)]));
const processing = phrase("{processing}", null, "en");
const granted = GRANTED.map((status) => phrase("{granted}", status, "en"));
console.log(JSON.stringify({ words: WORDS, signs, marks, processing, granted }));
"""
GRANTED: list[dict[str, Any]] = [
    {"credits_granted": 2000},
    {"credits_granted": 2000, "units_granted": {"images": 1500, "videos": 0}},
    {"credits_granted": 0, "units_granted": {"images": 50}},
    {"credits_granted": 0, "units_granted": {"images": 0}},
]
"""What a payment has granted, of one unit or of several."""


@pytest.fixture(scope="module")
def element() -> Any:
    """The element's texts, signs and marks."""
    program = PRINT.replace("GRANTED", json.dumps(GRANTED))
    command = [str(NODE), "--input-type=module", "-e", program]
    folder = ROOT / "client_demo" / "paidup_demo" / "sdk" / "element"
    run = subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=True, timeout=280
    )
    return json.loads(run.stdout)


def test_the_texts_are_the_elements(element: Any) -> None:
    assert {state: said for state, said in ENGLISH.items() if state not in PAGES_OWN} == element["words"]


def test_the_text_of_a_payment_in_processing_is_the_elements(element: Any) -> None:
    assert element["processing"] == PROCESSING


def test_what_was_granted_is_said_of_each_unit_as_by_the_element(element: Any) -> None:
    message = CheckoutMessage("cs_1", 1, InvoiceStatus.ACTIVE, Stage.ACTIVE, "pro", 0, None, now())
    said = [fill("{granted}", replace(message, **status), "en") for status in GRANTED]
    assert said == element["granted"]
    assert said == ["2,000 credits", "2,000 credits, 1,500 images", "50 images", "0 credits"]


def test_the_marks_are_the_elements(element: Any) -> None:
    """Before anything is known, the page shows those of a customer who has not paid yet."""
    wanted = {state: tuple(marks) for state, marks in element["marks"].items() if state != "refused"}
    assert wanted | {"waiting": ("now", "next", "next")} == MARKS
    assert {mark: sign for mark, sign in element["signs"].items() if sign} == SIGNS
