"""docs/client.md describes every export, option, event, error code, part and slot of the browser client."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.structure.sources import ROOT

CLIENT = ROOT / "client_demo" / "paidup_demo" / "sdk"
DOCUMENT = (ROOT / "docs" / "client.md").read_text()
# Words in backticks; calls count without their arguments: `verify()` is `verify`.
DOCUMENTED = {
    word for code in re.findall(r"`([^`\n]+)`", DOCUMENT) for word in re.findall(r"[\w./{}-]+", code)
}


def found(path: str, pattern: str) -> list[str]:
    """The matches of a pattern's group in a file of the client; there must be at least one."""
    names = re.findall(pattern, (CLIENT / path).read_text())
    assert names, f"{path} has nothing like {pattern}"
    return sorted(set(names))


def keys(path: str, pattern: str) -> list[str]:
    """The keys of the object or object type that a pattern's group matches."""
    (body,) = found(path, pattern)
    return re.findall(r"(\w+):", body)


def words(path: str, pattern: str) -> list[str]:
    """The strings of the union that a pattern's group matches."""
    (body,) = found(path, pattern)
    return re.findall(r'"([\w-]+)"', body)


STATES = [*words("paidup.js", r"\{(.*)\} Stage \*/"), "reversed", "refused"]
OPTIONS = r"(?s)@typedef \{object\} ConnectionOptions(.*?)\*/"
NAMES = {
    "export": found("paidup.js", r"(?m)^export (?:function|class) (\w+)")
    + found("react.js", r"export function (\w+)"),
    "option": ["invoice", *re.findall(r"@property \{.*\} \[(\w+)\]", found("paidup.js", OPTIONS)[0])],
    "event": keys("paidup.js", r"typedef \{\{(.*)\}\} ActivationEvents")
    + keys("paidup.js", r"typedef \{\{(.*)\}\} BalanceEvents")
    + found("element/activation.js", r'#dispatch\("(\w+)"'),
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
def test_every_name_of_the_client_is_documented(kind: str) -> None:
    assert [name for name in NAMES[kind] if name not in DOCUMENTED | INTERNAL] == []


def test_documented_parts_slots_and_properties_exist() -> None:
    def documented(pattern: str) -> set[str]:
        return set(re.findall(pattern, DOCUMENT))

    assert documented(r"--paidup-[\w-]+") == set(NAMES["custom property"])
    assert documented(r"::part\(([\w-]+)\)") <= set(NAMES["part"])
    slots = {name.replace("{state}", state) for name in NAMES["slot"] for state in STATES}
    assert documented(r'slot="([\w-]+)"') <= slots


def test_the_documented_examples_exist() -> None:
    existing = {path.name for path in (CLIENT.parent / "examples").glob("*.html")}
    assert {Path(target).name for target in re.findall(r"\]\((\S+examples/\S+)\)", DOCUMENT)} == existing
