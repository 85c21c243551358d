"""Checks the documents against the code: settings, routes, frames, stages, statuses, close codes, paths."""

from __future__ import annotations

import re
from functools import cache
from typing import Any, cast

import msgspec
import pytest
from starlette.routing import Route, WebSocketRoute

from paidup.client import Paidup
from paidup.domain.catalog import Plan
from paidup.domain.decisions import InvoiceStatus
from paidup.domain.messages import SUBPROTOCOL, BalanceMessage, Bye, CloseCode, Heartbeat, StatusMessage
from paidup.domain.payment_facts import Source
from paidup.domain.stages import Stage, stage_of
from paidup.errors import PaidupError
from paidup.settings import NAMES, PACKAGED_PLANS, Settings
from paidup.web import problems
from paidup.web.routes import ROUTES
from tests.structure.pages import Page, pages
from tests.structure.sources import ROOT

FIELDS = {field.encode_name: field for field in msgspec.structs.fields(Settings)}
SECRETS = {"SECRET_KEY", "STRIPE_SECRET_KEY", "STRIPE_PUBLISHABLE_KEY", "STRIPE_WEBHOOK_SECRET"}
DEMO_ONLY = {"SANDBOX_PORT"}
ASSIGNMENT = re.compile(r"^(?P<off># )?(?P<name>[A-Z][A-Z0-9_]*)=(?P<value>.*)$")


@cache
def document(name: str) -> str:
    return (ROOT / name).read_text()


@cache
def example() -> dict[str, tuple[bool, str, bool]]:
    """For each setting in .env.example: whether it is commented out, its value, whether it has a comment."""
    found = {}
    explained = False
    for line in document(".env.example").splitlines():
        if match := ASSIGNMENT.match(line):
            assert match["name"] not in found, f"{match['name']} is there twice"
            found[match["name"]] = (bool(match["off"]), match["value"], explained)
        else:
            # A comment explains what follows it, up to the next blank line.
            explained = line.startswith("# ")
    return found


def rows(name: str) -> list[list[str]]:
    """The cells of every table row in a document."""
    lines = [line for line in document(name).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def codes(text: str) -> list[str]:
    """Everything in backticks."""
    return re.findall(r"`([^`]+)`", text)


def default_of(name: str) -> Any:
    return FIELDS[name].default


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_explained_in_env_example(name: str) -> None:
    assert name in example()
    off, value, explained = example()[name]
    assert explained
    if name in SECRETS:
        assert (off, value) == (False, ""), "a secret has no default"


@pytest.mark.parametrize("name", [name for name in NAMES if name not in SECRETS])
def test_the_default_in_env_example_is_the_default(name: str) -> None:
    off, value, _ = example()[name]
    default = default_of(name)
    if name == "PLANS_FILE":
        assert (default, value) == (PACKAGED_PLANS, "")
    elif isinstance(default, str):
        assert value == default
    elif isinstance(default, bool | int | float):
        assert msgspec.convert(value, type(default), strict=False) == default
    else:
        assert value == str(default)
    assert off, "a setting with a default is commented out"


def test_env_example_names_only_existing_settings() -> None:
    assert set(example()) - set(NAMES) == DEMO_ONLY


@pytest.mark.parametrize("name", [*NAMES, *sorted(DEMO_ONLY)])
def test_every_setting_is_in_the_settings_document_with_its_default(name: str) -> None:
    described = [row for row in rows("docs/settings.md") if name in codes(row[0])]
    assert len(described) == 1
    names, defaults, words = described[0]
    assert words
    if name in SECRETS:
        assert "required" in defaults
    elif name in FIELDS and isinstance(default_of(name), int | float):
        shown = defaults.split(",")[codes(names).index(name)].strip(" `")
        assert msgspec.convert(shown, type(default_of(name)), strict=False) == default_of(name)
    elif name in FIELDS and default_of(name) and name != "PLANS_FILE":
        assert str(default_of(name)) in codes(defaults)


CALLS = [
    f"{method} {route.path}"
    for route in cast(list[Any], ROUTES)
    for method in ((sorted((route.methods or set()) - {"HEAD"})) if isinstance(route, Route) else ["GET"])
]


@pytest.mark.parametrize("call", CALLS)
def test_every_route_is_in_the_api_document(call: str) -> None:
    assert call in [code for row in rows("docs/api.md") for code in codes(row[0])]


def test_the_api_document_names_only_existing_routes() -> None:
    methods = ("GET ", "POST ", "PATCH ", "DELETE ")
    described = {code for row in rows("docs/api.md") for code in codes(row[0]) if code.startswith(methods)}
    assert described == set(CALLS)
    assert [route.path for route in ROUTES if isinstance(route, WebSocketRoute)] == [
        "/ws/invoices/{invoice}",
        "/ws/checkout/{checkout}",
        "/ws/account",
    ]


@pytest.mark.parametrize(
    "slug",
    sorted(
        {slug for *_, slug, _ in problems._PROBLEMS} | {slug for slug, _ in problems._HTTP_PROBLEMS.values()}
    ),
)
def test_every_problem_is_in_the_api_document(slug: str) -> None:
    assert slug in re.findall(r"[a-z]+(?:-[a-z]+)*", document("docs/api.md"))


def test_every_error_of_ours_has_an_http_status() -> None:
    def leaves(kind: type[PaidupError]) -> list[type[PaidupError]]:
        below = kind.__subclasses__()
        return [leaf for child in below for leaf in leaves(child)] if below else [kind]

    edge = [leaf for leaf in leaves(PaidupError) if leaf.__module__ == "paidup.errors"]
    answered = tuple(kind for kind, *_ in problems._PROBLEMS)
    assert [kind.__name__ for kind in edge if not issubclass(kind, answered)] == []


@pytest.mark.parametrize(
    "word",
    [
        *InvoiceStatus,
        *Stage,
        *Source,
        *(kind.__struct_config__.tag for kind in (StatusMessage, BalanceMessage, Heartbeat, Bye)),
    ],
)
def test_every_word_on_the_socket_is_in_the_protocol_document(word: str) -> None:
    assert re.search(rf"[`\"]{word}[`\"]", document("docs/protocol.md"))


@pytest.mark.parametrize("kind", [StatusMessage, BalanceMessage, Bye])
def test_every_field_of_a_frame_is_in_the_protocol_document(kind: type[msgspec.Struct]) -> None:
    fields = [field.encode_name for field in msgspec.structs.fields(kind)]
    assert [
        name for name in fields if not re.search(rf"[`\"]{name}[`\"]", document("docs/protocol.md"))
    ] == []


@pytest.mark.parametrize("status", InvoiceStatus)
def test_the_protocol_document_says_which_statuses_end_the_wait(status: InvoiceStatus) -> None:
    (row,) = [row for row in rows("docs/protocol.md") if row[0] == f"`{status}`" and len(row) == 3]
    assert (row[2] == "yes") is status.terminal


def test_the_protocol_document_names_the_close_codes_and_the_subprotocol() -> None:
    described = {row[0] for row in rows("docs/protocol.md") if row[0].isdecimal() and int(row[0]) >= 1000}
    assert described == {str(code.value) for code in CloseCode}
    assert SUBPROTOCOL in document("docs/protocol.md")


def test_the_concepts_show_every_status_with_its_stage() -> None:
    """In the table, and in the picture."""
    described = {codes(row[0])[0]: codes(row[1]) for row in rows("docs/concepts.md") if codes(row[0])}
    picture = document("docs/images/states.svg")
    assert set(described) == {str(status) for status in InvoiceStatus}
    for status in InvoiceStatus:
        assert stage_of(status) in described[status]
        assert f">{status}</text>" in picture
    assert {stage for stages in described.values() for stage in stages} == {str(stage) for stage in Stage}


@pytest.mark.parametrize("name", ["backend.py", "async_backend.py", "embedded_starlette.py"])
def test_the_document_prints_the_example_that_the_tests_run(name: str) -> None:
    _, _, code = document(f"docs/examples/{name}").partition('"""\n')
    assert f"```python\n{code.strip()}\n```" in document("docs/embedding.md")


@pytest.mark.parametrize("name", ["backend.py", "index.html", "vite.config.ts", "billing.ts", "main.tsx"])
def test_the_integration_is_printed_whole(name: str) -> None:
    """tests/browser/test_fastapi_and_react.py runs these files."""
    (path,) = (ROOT / "docs" / "examples" / "fastapi_react").rglob(name)
    code = (
        path.read_text().removeprefix('"""').partition('"""\n')[2]
        if name.endswith(".py")
        else path.read_text()
    )
    assert code.strip() in re.findall(r"(?s)```\w+\n(.*?)\n```", document("docs/fastapi-react.md"))


def test_the_ways_to_pay_are_printed_as_the_browser_tests_run_them() -> None:
    """tests/browser/test_examples.py runs both files."""
    examples = ROOT / "client_demo" / "paidup_demo" / "examples"
    run = "\n".join((examples / name).read_text() for name in ("checkout.js", "plain.js"))
    printed = re.findall(r"(?s)```js\n(.*?)\n```", document("docs/which-way-to-pay.md"))
    assert len(printed) == 4
    assert [code for code in printed if code not in run] == []


def test_every_method_of_the_python_client_is_in_the_embedding_document() -> None:
    documented = set(re.findall(r"`(\w+)\(", document("docs/embedding.md")))
    methods = {name for name in dir(Paidup) if not name.startswith("_") and callable(getattr(Paidup, name))}
    assert methods - documented == set()


def test_the_architecture_document_names_the_last_scenario() -> None:
    written = (path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    numbers = {number for text in written for number in re.findall(r'"""(S\d\d)\b', text)}
    assert f"(S01 to {max(numbers)})" in document("ARCHITECTURE.md")


def test_every_test_that_a_document_names_exists() -> None:
    written = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    there = set(re.findall(r"def (test_\w+)", written))
    documents = [*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")]
    named = {name for path in documents for name in re.findall(r"`(test_\w+)`", path.read_text())}
    assert named
    assert named - there == set()


@pytest.mark.parametrize("field", [field.encode_name for field in msgspec.structs.fields(Plan)])
def test_the_comment_in_plans_toml_explains_every_field(field: str) -> None:
    explained = PACKAGED_PLANS.read_text().partition("[[plans]]")[0] if field not in SELF_EVIDENT else field
    assert field in explained


SELF_EVIDENT = {"id", "name", "description"}


WIDTH = 100
"""Columns of Markdown prose. Tables, code and pictures may be wider."""
SERVER = ROOT / "server" / "paidup"
DEMO = ROOT / "client_demo" / "paidup_demo"
PATH = re.compile(r"(?:[\w@.-]+/)+[\w@.-]*\w?")


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_prose_wraps_at_100_columns(page: Page) -> None:
    wide = [
        number
        for number, line in page.prose()
        if len(line) > WIDTH and not line.lstrip().startswith(("|", "![", "#")) and " " in line.strip()
    ]
    assert wide == [], f"{page.name} has prose of more than {WIDTH} columns"


def test_architecture_names_every_package_and_top_level_module() -> None:
    packages = {f"{path.parent.name}/" for path in SERVER.rglob("__init__.py")} - {"paidup/", "migrations/"}
    modules = {path.name for path in SERVER.glob("*.py")} - {"__init__.py"}
    text = document("ARCHITECTURE.md")
    assert {name for name in packages | modules if not re.search(rf"[`/]{re.escape(name)}`", text)} == set()


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_every_path_that_a_document_names_exists(page: Page) -> None:
    """Paths in backticks start at the root, in the server's or the demo's package, or in tests/."""
    folders = [ROOT, SERVER, DEMO, ROOT / "tests"]
    missing = []
    for number, line in page.prose():
        for name in codes(line):
            homes = [folder for folder in folders if (folder / name.partition("/")[0]).is_dir()]
            if PATH.fullmatch(name) and homes and not any((home / name).exists() for home in homes):
                missing.append(f"{page.name}:{number}: {name}")
    assert missing == []


def test_the_contents_of_the_decisions_list_each_once() -> None:
    """By its number and its title. That each link leads to its record, test_docs_check.py checks."""
    contents, records = document("docs/decisions.md").split("\n## ", 2)[1:]
    titles = re.findall(r"^(?:## )?(\d+\. .+)$", records, re.MULTILINE)
    listed = re.findall(r"^- \[(.+?)\]\(#", re.sub(r"\n {2}", " ", contents), re.MULTILINE)
    assert sorted(listed) == sorted(titles)
    assert [int(title.partition(".")[0]) for title in titles] == list(range(1, len(titles) + 1))


def test_contributing_answers_ten_questions_with_a_path() -> None:
    questions = document("CONTRIBUTING.md").partition("## Find your way")[2].partition("\n## ")[0]
    answers = re.split(r"(?m)^\d+\. ", questions)[1:]
    assert len(answers) == 10
    assert [answer for answer in answers if "? " not in answer or not re.search(r"`\w+/[^`]+`", answer)] == []


WAITING_DOCUMENTS = (
    "README.md",
    "docs/quickstart.md",
    "docs/client.md",
    "client_demo/paidup_demo/sdk/README.md",
)


def test_every_document_waits_in_the_same_way() -> None:
    """The code between the purchase and the credits is the same, to the letter."""
    blocks = {}
    for path in WAITING_DOCUMENTS:
        code = re.findall(r"(?s)```js\n(.*?)```", document(path))
        (blocks[path],) = [block for block in code if "activate({" in block or ".finished" in block]
    assert len(set(blocks.values())) == 1, blocks
    for line in ("= activate({ invoice, ticket", "activation.confirmed(", "= await activation.finished;"):
        assert line in blocks["README.md"]


def test_what_ends_the_wait_is_listed_once_and_whole() -> None:
    """In the client's document, with the stage that is then shown; the others link to it."""
    ends = {row[1]: row[2] for row in rows("docs/client.md") if row[0] == "resolves"}
    assert ends == {f"`{status}`": f"`{stage_of(status)}`" for status in InvoiceStatus if status.terminal}
    for path in WAITING_DOCUMENTS:
        described = [row[0] for row in rows(path) if codes(row[0]) and codes(row[0])[0] in set(Stage)]
        assert sorted(described) == (sorted(f"`{stage}`" for stage in Stage) if "client.md" in path else [])
    for path in ("README.md", "docs/quickstart.md"):
        assert "client.md#what-ends-the-wait" in document(path)
