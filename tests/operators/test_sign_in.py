"""Who may open the operators' pages, and who may act: sessions, proxies that name the user, readers."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from starlette.requests import Request

from paidup.db.models import Account, Correction
from paidup.db.outbound_models import EventEndpoint
from paidup.rate_limits.address_limits import SIGN_INS_PER_MINUTE
from paidup.web.operator_token import Role
from paidup.web.operators import access, forms
from paidup.web.operators.access import new_session, session_of
from tests.conftest import World
from tests.operators.conftest import OPERATOR_TOKEN
from tests.operators.person import OWN_PAGE, Answer, Person
from tests.support.paidup import ORIGIN, Paidup, settings

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

READ_TOKEN = "token-of-those-who-read"
TOKENS: dict[str, Any] = {"operator_token": OPERATOR_TOKEN, "operator_read_token": READ_TOKEN}
GRANT = "/operators/actions/grant"


@pytest.fixture
async def served(world: World) -> Paidup:
    return await world.server(webhooks=False, **TOKENS)


@pytest.fixture
def person(served: Paidup, http: aiohttp.ClientSession) -> Person:
    return Person(served, http)


async def test_a_person_signs_in_and_out(person: Person) -> None:
    """They come to the page that they had asked for. Nobody else gets a cookie."""
    asked = "/operators/find?ref=ada@example.com"
    where = (await person.get(asked)).leads_to
    form = await person.get(where)
    assert (form.status, form.fields["next"]) == (200, "/find?ref=ada@example.com")
    for token, name in (
        ("", "grace"),
        (f"{OPERATOR_TOKEN}x", "grace"),
        (OPERATOR_TOKEN, ""),
        ("é", "x" * 201),
    ):
        refused = await person.sign_in(token, name)
        assert (refused.status, "Set-Cookie" in refused.headers) == (422, False)
        assert OPERATOR_TOKEN not in refused.page
    signed_in = await person.sign_in(OPERATOR_TOKEN, "grace", form.fields["next"])
    assert signed_in.leads_to == asked
    cookie = signed_in.headers["Set-Cookie"]
    assert cookie.endswith("; HttpOnly; Max-Age=28800; Path=/operators; SameSite=strict")
    assert OPERATOR_TOKEN not in cookie
    page = await person.get("/operators")
    assert (page.status, "grace" in page.text) == (200, True)
    assert (await person.get(where)).leads_to == asked, "who is signed in already is not asked again"
    out = await person.post("/operators/sign-out", page.fields)
    assert out.leads_to == "/operators/sign-in"
    assert 'paidup_operator=""' in out.headers["Set-Cookie"]
    assert "Max-Age=0" in out.headers["Set-Cookie"]


async def test_behind_https_the_cookie_is_secure_and_a_sign_in_leads_nowhere_else(person: Person) -> None:
    elsewhere = (
        "//evil.example",
        "https://evil.example",
        "@evil.example",
        "/\\evil.example",
        "/%0d%0aX: y",
        ".x",
        "/x/../../logout",
        "/x/%2E%2e/.%2e/logout",
    )
    for following in elsewhere:
        answer = await person.sign_in(OPERATOR_TOKEN, to=following, **{"X-Forwarded-Proto": "https"})
        assert (answer.leads_to, "; Secure" in answer.headers["Set-Cookie"]) == ("/operators", True)
        person._headers["X-Forwarded-For"] = f"192.0.2.{elsewhere.index(following)}"


async def test_a_link_on_another_site_finds_the_session(person: Person) -> None:
    """The browser keeps a strict cookie back until a page of this server goes on."""
    where = (await person.get("/operators/audit-log")).leads_to
    page = await person.get(where, **{"Sec-Fetch-Site": "cross-site"})
    again = "/operators/sign-in?next=%2Faudit-log&again=1"
    assert f'http-equiv="refresh" content="0; url={again.replace("&", "&amp;")}"' in page.page
    await person.sign_in(OPERATOR_TOKEN)
    assert (await person.get(again)).leads_to == "/operators/audit-log"


def test_a_new_token_or_secret_key_ends_all_sessions(database_url: str) -> None:
    """And a session of a reader never becomes one of a writer."""
    old = settings(**TOKENS)
    writer, reader = (new_session(old, role, "grace") for role in (Role.WRITER, Role.READER))

    def may_act(cookie: str, **changes: Any) -> bool | None:
        scope = {"type": "http", "headers": [(b"cookie", f"{access.COOKIE}={cookie}".encode())]}
        found = session_of(Request(scope), settings(**{**TOKENS, **changes}))
        return found.may_act if found else None

    assert (may_act(writer), may_act(reader)) == (True, False)
    new = "another-token-of-the-operators"
    assert (may_act(writer, operator_token=new), may_act(reader, operator_token=new)) == (None, False)
    assert may_act(reader, operator_read_token=new) is None
    assert may_act(writer, secret_key="another-secret-key-of-the-tests") is None
    assert may_act(reader, operator_token=READ_TOKEN, operator_read_token="") is None
    assert may_act(f"{writer}x") is None


async def test_a_session_expires(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    await person.sign_in(OPERATOR_TOKEN)
    assert (await person.get("/operators")).status == 200
    monkeypatch.setattr(access, "SESSION_S", -1)
    assert (await person.get("/operators")).leads_to.startswith("/operators/sign-in")


async def test_sign_ins_of_one_address_are_limited(person: Person) -> None:
    """Also the right one, so that a guess cannot be told from it. Another address signs in."""
    for _ in range(SIGN_INS_PER_MINUTE):
        assert (await person.sign_in("wrong-token-of-the-operators")).status == 422
    refused = await person.sign_in(OPERATOR_TOKEN)
    assert (refused.status, "Too many sign-ins" in refused.text) == (429, True)
    assert int(refused.headers["Retry-After"]) > 0
    assert (await person.sign_in(OPERATOR_TOKEN, **{"X-Forwarded-For": "203.0.113.250"})).status == 303


async def test_a_form_needs_its_own_pages_token(
    person: Person, served: Paidup, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CSRF: none, another one, one of another session, an expired one, another site's page, or no page."""
    account = await Account.create(external_id="ada")
    other = Person(served, http)
    for each in (person, other):
        await each.sign_in(OPERATOR_TOKEN)
    asked = await person.confirmation(f"{GRANT}?account=ada", credits="5")
    theirs = (await other.get(GRANT)).fields["form_token"]
    fields, page = asked.fields, {"Sec-Fetch-Site": "", "Origin": served.url}

    async def refused(headers: dict[str, str] | None = None, **changes: str) -> None:
        answer = await person.post(GRANT, {**fields, **changes}, **(headers or {}))
        assert (answer.status, "Nothing was changed" in answer.text) == (403, True)
        assert not await Correction.exists()

    own = fields["form_token"]
    for token in ("", "x", theirs, own[:-1], own + "x", person.cookie.partition("=")[2]):
        await refused(form_token=token)
    for site in ("cross-site", "same-site", "none", "x"):
        await refused({"Sec-Fetch-Site": site})
    for origin in (
        "",
        "null",
        "https://evil.example",
        f"{served.url}.evil.example",
        served.url.replace("127", "128"),
    ):
        await refused({**page, "Origin": origin})
    await refused({**page, "Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"})
    cookie, person.cookie = person.cookie, ""
    assert (await person.post(GRANT, fields)).leads_to.startswith("/operators/sign-in?")
    bearer = await person.post(GRANT, fields, Authorization=f"Bearer {OPERATOR_TOKEN}")
    assert bearer.status == 403, "a program has no page"
    person.cookie = cookie
    with monkeypatch.context() as patch:
        patch.setattr(forms, "FORM_S", -1)
        await refused()
    assert (await person.post(GRANT, fields, **page)).status == 303
    await account.refresh_from_db()
    assert account.balance == 5


async def test_what_is_no_form_is_refused(person: Person) -> None:
    await person.sign_in(OPERATOR_TOKEN)
    odd = {"Content-Type": "application/json"}
    assert (await person.post(GRANT, {"a": "b"}, **odd)).status == 422
    assert (await person.post(GRANT, {str(number): "x" for number in range(50)})).status == 422
    assert (await person.get("/operators/actions/nothing")).status == 404
    assert [
        (await person._send("HEAD", path, None, {})).status for path in (GRANT, "/operators/sign-in")
    ] == [200, 303]
    assert (await person.post(GRANT, {"a": "x" * 20_000})).status == 413


async def test_a_reader_reads_and_changes_nothing(
    person: Person, http: aiohttp.ClientSession, served: Paidup
) -> None:
    """No action is offered, and none is done. The API's reads are theirs as well."""
    await Account.create(external_id="ada")
    keyed = "https://app.example.test/hook?key=k_123"
    await EventEndpoint.create(name="backend", url=keyed, types=[], secret="whsec_x")
    await person.sign_in(READ_TOKEN)
    page = await person.get("/operators/account?id=ada")
    assert (page.status, "read only" in page.text, "/operators/actions/" in page.page) == (200, True, False)
    token = page.fields["form_token"]
    for path in (GRANT, "/operators/actions/erase"):
        for answer in (
            await person.get(path),
            await person.post(path, {"form_token": token, "confirmed": "yes"}),
        ):
            assert (answer.status, "not act on them" in answer.text) == (403, True)
    assert (await person.post("/operators/sign-out", page.fields)).status == 303
    headers = {"Authorization": f"Bearer {READ_TOKEN}"}
    async with http.get(f"{served.url}/operators/api/corrections", headers=headers) as response:
        assert response.status == 200
    for path in ("endpoints", "endpoints/backend"):
        async with http.get(f"{served.url}/operators/api/{path}", headers=headers) as response:
            shown = await response.text()
        assert ("https://app.example.test/hook" in shown, "k_123" in shown) == (True, False)
    body = {"account": "ada", "credits": 5, "by": "x", "reason": "x", "key": "x"}
    async with http.post(f"{served.url}/operators/api/grant", json=body, headers=headers) as response:
        assert (response.status, "OPERATOR_READ_TOKEN" in await response.text()) == (403, True)
    assert not await Correction.exists()


NAMED: dict[str, Any] = {"operator_header": "X-Forwarded-Email", "operator_token": OPERATOR_TOKEN}


async def test_a_proxy_names_the_user_who_acts(world: World, http: aiohttp.ClientSession) -> None:
    """Nobody acts unless OPERATOR_WRITERS says so. The audit log has the proxy's name for them."""
    served = await world.server(webhooks=False, operator_writers="grace@example.com, b", **NAMED)
    await Account.create(external_id="ada")
    grace = Person(served, http, **{"X-Forwarded-Email": "grace@example.com"})
    done = await grace.do(f"{GRANT}?account=ada", credits="5")
    assert done.leads_to.startswith("/operators/account?id=ada&done=cor_")
    assert (await Correction.get()).actor == "grace@example.com"
    assert (await grace.get("/operators/sign-in")).leads_to == "/operators"
    reader = Person(served, http, **{"X-Forwarded-Email": "Grace@example.com"})
    assert (await reader.get("/operators")).status == 200
    theirs = (await grace.get(GRANT)).fields
    for fields in (theirs, {**theirs, "form_token": ""}):
        assert (await reader.post(GRANT, fields)).status == 403
    another = Person(served, http, **{"X-Forwarded-Email": "b"})
    refused = await another.post(GRANT, {**theirs, "credits": "5", "account": "ada", "confirmed": "yes"})
    assert (refused.status, "another session" in refused.text) == (403, True)


async def test_only_a_trusted_proxy_names_the_user(world: World, http: aiohttp.ClientSession) -> None:
    """Absent, empty, twice, or from an address that is no proxy: 403, whatever else the request has."""
    headers = {"X-Forwarded-Email": "grace@example.com"}

    async def shown(served: Paidup, **sent: str) -> Answer:
        return await Person(served, http, **sent).get("/operators", Cookie=f"{access.COOKIE}=x")

    served = await world.server(webhooks=False, **NAMED)
    assert (await shown(served, **headers)).status == 200
    for named in ({}, {"X-Forwarded-Email": " "}, {"X-Forwarded-Email": "x" * 201}):
        answer = await shown(served, **named)
        assert (answer.status, "did not name one user in X-Forwarded-Email" in answer.text) == (403, True)
    twice = [*OWN_PAGE.items(), ("X-Forwarded-Email", "a"), ("X-Forwarded-Email", "b")]
    async with http.get(f"{served.url}/operators", headers=twice) as response:
        assert response.status == 403
    bearer = {"Authorization": f"Bearer {OPERATOR_TOKEN}"}
    assert (await shown(served, **bearer)).status == 200, "a program needs no proxy"


async def test_a_name_from_an_untrusted_address_is_not_believed(
    world: World, http: aiohttp.ClientSession
) -> None:
    served = await world.server(
        webhooks=False, forwarded_allow_ips="192.0.2.9", operator_writers="*", **NAMED
    )
    for claimed in ("192.0.2.9", "127.0.0.1"):
        forged = Person(served, http, **{"X-Forwarded-Email": "grace", "X-Forwarded-For": claimed})
        answer = await forged.get("/operators")
        assert (answer.status, "FORWARDED_ALLOW_IPS" in answer.text) == (403, True)
        assert (await forged.post(GRANT, {"confirmed": "yes"})).status == 403


async def test_pages_of_other_origins_read_nothing(world: World, http: aiohttp.ClientSession) -> None:
    """Not even those that may call the API with cookies: a subdomain's request has the strict cookie."""
    served = await world.server(webhooks=False, cors_credentials=True, **TOKENS)
    await Account.create(external_id="ada")
    person = Person(served, http)
    await person.sign_in(OPERATOR_TOKEN)
    for site in ("same-site", "cross-site", ""):
        for path in ("/operators", "/operators/account?id=ada", f"{GRANT}?account=ada"):
            answer = await person.get(path, **{"Sec-Fetch-Site": site, "Origin": ORIGIN})
            assert (answer.status, "form_token" in answer.page) == (403, False)
    for site in ("same-origin", ""):
        assert (
            await person.get("/operators", **{"Sec-Fetch-Site": site, "Origin": served.url})
        ).status == 200


async def test_a_page_of_another_origin_reads_nothing_behind_a_proxy(
    world: World, http: aiohttp.ClientSession
) -> None:
    served = await world.server(webhooks=False, cors_credentials=True, **NAMED)
    grace = Person(served, http, **{"X-Forwarded-Email": "grace"})
    assert (await grace.get("/operators", **{"Sec-Fetch-Site": "same-site", "Origin": ORIGIN})).status == 403


async def test_a_session_that_ends_before_the_confirmation_changes_nothing_and_says_so(
    person: Person,
) -> None:
    """They come back to the form, not to a page from which it seems to be done."""
    await Account.create(external_id="ada")
    await person.sign_in(OPERATOR_TOKEN)
    asked = await person.confirmation(f"{GRANT}?account=ada", credits="5")
    person.cookie = ""
    where = (await person.post(GRANT, asked.fields)).leads_to
    form = await person.get(where)
    assert "Nothing was changed" in form.text
    assert (await person.sign_in(OPERATOR_TOKEN, to=form.fields["next"])).leads_to == GRANT
    assert not await Correction.exists()


async def test_tokens_of_forms_are_not_tokens_of_sessions(person: Person) -> None:
    await person.sign_in(OPERATOR_TOKEN)
    token = (await person.get(GRANT)).fields["form_token"]
    person.cookie = f"{access.COOKIE}={token}"
    assert (await person.get("/operators")).status == 303
