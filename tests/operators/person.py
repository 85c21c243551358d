"""A person at the operators' pages: signs in, opens pages, and sends the forms that they were shown."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser
from typing import Any

import aiohttp

from tests.support.paidup import Paidup

OWN_PAGE = {"Accept": "text/html", "Sec-Fetch-Site": "same-origin"}
_addresses = (f"198.51.{number // 250}.{number % 250}" for number in itertools.count(1))


class Fields(HTMLParser):
    """What a browser would send of a page's last form."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: dict[str, str] = {}
        self._area = self._choice = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        name = given.get("name", "")
        if tag == "form":
            self.found = {}
        elif tag == "input" and (given.get("type") != "checkbox" or "checked" in given):
            self.found[name] = given.get("value", "")
        elif tag == "select":
            self._choice = name
        elif tag == "option" and ("selected" in given or self._choice not in self.found):
            self.found[self._choice] = given.get("value", "")
        elif tag == "textarea":
            self._area, self.found[name] = name, ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea":
            self._area = ""

    def handle_data(self, data: str) -> None:
        if self._area:
            self.found[self._area] += data


class Answer:
    def __init__(self, status: int, text: str, headers: Any) -> None:
        self.status, self.page, self.headers = status, text, headers

    @property
    def text(self) -> str:
        """What it says, without markup."""
        return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", self.page.partition("</style>")[2]))

    @property
    def fields(self) -> dict[str, str]:
        return Fields(self.page).found

    @property
    def leads_to(self) -> str:
        assert self.status == 303, (self.status, self.text)
        return str(self.headers["Location"])


class Person:
    """`headers` go with each request, as those of a proxy do."""

    def __init__(self, paidup: Paidup, http: aiohttp.ClientSession, **headers: str) -> None:
        self.url, self._http = paidup.url, http
        self.cookie = ""
        # Sign-ins are counted by address, in the Redis of all tests.
        self._headers = {"X-Forwarded-For": next(_addresses), **headers}

    async def get(self, path: str, **headers: str) -> Answer:
        return await self._send("GET", path, None, headers)

    async def post(self, path: str, fields: dict[str, str], **headers: str) -> Answer:
        return await self._send("POST", path, fields, headers)

    async def _send(self, method: str, path: str, fields: Any, headers: dict[str, str]) -> Answer:
        sent = {**OWN_PAGE, **self._headers, **headers}
        if self.cookie:
            sent["Cookie"] = self.cookie
        sent = {name: value for name, value in sent.items() if value}
        options: dict[str, Any] = {"data": fields, "headers": sent, "allow_redirects": False}
        async with self._http.request(method, self.url + path, **options) as response:
            return Answer(response.status, await response.text(), response.headers)

    async def sign_in(self, token: str, name: str = "grace", to: str = "", **headers: str) -> Answer:
        answer = await self.post("/operators/sign-in", {"name": name, "token": token, "next": to}, **headers)
        if answer.status == 303:
            self.cookie = answer.headers["Set-Cookie"].partition(";")[0]
        return answer

    async def confirmation(self, path: str, **filled: str) -> Answer:
        """Open a form, fill it in, and go on to what it would change."""
        form = await self.get(path)
        assert form.status == 200, form.text
        return await self.post(path.partition("?")[0], {**form.fields, "reason": "A day of outage", **filled})

    async def do(self, path: str, typed: str = "", **filled: str) -> Answer:
        """The same, and confirm it."""
        asked = await self.confirmation(path, **filled)
        assert asked.status == 200, asked.text
        sent = {**asked.fields, "typed": typed} if typed else asked.fields
        return await self.post(path.partition("?")[0], sent)
