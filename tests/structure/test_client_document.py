"""docs/client.md, held to the browser client: each export, option, event, code, part and slot is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.structure.sources import ROOT

CLIENT = ROOT / "client_demo" / "paidup_demo" / "sdk"
DOCUMENT = (ROOT / "docs" / "client.md").read_text()
# Words in backticks, those of a call without its arguments: `verify()` is `verify`.
TOLD = {word for code in re.findall(r"`([^`\n]+)`", DOCUMENT) for word in re.findall(r"[\w./{}-]+", code)}


def found(path: str, pattern: str) -> list[str]:
    """What a pattern's group matches in a file of the client; it must match something."""
    names = re.findall(pattern, (CLIENT / path).read_text())
    assert names, f"{path} has nothing like {pattern}"
    return sorted(set(names))


def keys(path: str, pattern: str) -> list[str]:
    """The keys of the one object type, or object, that a pattern's group matches."""
    (body,) = found(path, pattern)
    return re.findall(r"(\w+):", body)


def words(path: str, pattern: str) -> list[str]:
    """The strings of the one union that a pattern's group matches."""
    (body,) = found(path, pattern)
    return re.findall(r'"([\w-]+)"', body)


STATES = [*words("paidup.js", r"\{(.*)\} Stage \*/"), "unconfirmed", "reversed", "refused"]
OPTIONS = r"(?s)@typedef \{object\} LineOptions(.*?)\*/"
NAMES = {
    "export": found("paidup.js", r"(?m)^export (?:function|class) (\w+)")
    + found("react.js", r"export function (\w+)"),
    "option": ["invoice", *re.findall(r"@property \{.*\} \[(\w+)\]", found("paidup.js", OPTIONS)[0])],
    "event": keys("paidup.js", r"typedef \{\{(.*)\}\} ActivationEvents")
    + keys("paidup.js", r"typedef \{\{(.*)\}\} BalanceEvents")
    + found("element/activation.js", r'#tell\("(\w+)"'),
    "connection": words("paidup.js", r"\{(.*)\} Connection \*/"),
    "code": words("paidup.js", r"FINAL = \{(.*)\}")
    + found("paidup.js", r'(?:unknown: |ActivationError\()"(\w+)"'),
    "state": STATES,
    "member": found(
        "paidup.js", r"(?m)^  (?:get )?(confirmed|verify|close|finished|status|stage|connection|latest)\b"
    ),
    "of the element": found(
        "element/activation.js", r"(?m)^  (?:get |set )?([a-z]\w+)(?:\(\w*\) \{| = this)"
    ),
    "attribute": [*words("element/activation.js", r"observedAttributes = \[(.*)\]"), "ticket"],
    "part": found("element/activation.js", r"""part(?:: |", )["`](\w+)""")
    + found("element/look.js", r'"part", "(\w+)"'),
    "slot": [f"step-{step}" for step in words("element/activation.js", r"STEPS = \[(.*)\]")]
    + [f"{{state}}-{place}" for place in found("element/activation.js", r"name: `\$\{state\}-(\w+)`")],
    "custom property": found("element/look.js", r"var\((--paidup-[\w-]+)"),
    "place in a phrase": [
        f"{{{name}}}" for name in keys("element/words.js", r"(?s)const known = \{(.*?)\};")
    ],
    "hook": keys("react.js", r"(?s)typedef \{\{(stage.*?)\}\} Watched"),
}
INTERNAL = {"constructor", "connectedCallback", "disconnectedCallback", "attributeChangedCallback"}


@pytest.mark.parametrize("kind", NAMES)
def test_everything_that_the_client_offers_is_in_its_document(kind: str) -> None:
    assert [name for name in NAMES[kind] if name not in TOLD | INTERNAL] == []


def test_the_client_document_names_no_part_slot_or_property_that_there_is_not() -> None:
    def told(pattern: str) -> set[str]:
        return set(re.findall(pattern, DOCUMENT))

    assert told(r"--paidup-[\w-]+") == set(NAMES["custom property"])
    assert told(r"::part\(([\w-]+)\)") <= set(NAMES["part"])
    slots = {name.replace("{state}", state) for name in NAMES["slot"] for state in STATES}
    assert told(r'slot="([\w-]+)"') <= slots


def test_the_examples_in_the_client_document_are_those_that_there_are() -> None:
    there = {path.name for path in (CLIENT.parent / "examples").glob("*.html")}
    assert {Path(target).name for target in re.findall(r"\]\((\S+examples/\S+)\)", DOCUMENT)} == there
