"""The HTML of the return page: a status and the SaaS's texts in, a page out.

Complete without a script, which the policy allows from this server only. What is not `Html` is escaped.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import msgspec

from paidup import __version__
from paidup.domain.messages import CheckoutMessage
from paidup.domain.return_page import ReturnPage, Texts, Theme
from paidup.runtime.return_page_file import ENGLISH

_TEMPLATE = Template((Path(__file__).parent / "return_page.html").read_text())
SCRIPT = (Path(__file__).parent / "return_page.js").read_bytes()

SIGNS = {
    "done": "m7 12.4 3.4 3.4L17 9",
    "paused": "M12 6.8V12l3.4 2.4",
    "failed": "m8.4 8.4 7.2 7.2m0-7.2-7.2 7.2",
}
"""The marks of the element (look.js)."""
_SVG = (
    '<svg viewBox="0 0 24 24" aria-hidden="true"><circle class="disc" cx="12" cy="12" r="11"/>'
    '<circle class="arc" cx="12" cy="12" r="11"/><path class="sign" d="{}"/></svg>'
)
MARKS = {
    "waiting": ("now", "next", "next"),
    "verifying": ("done", "now", "next"),
    "awaiting_payment": ("now", "next", "next"),
    "action_required": ("paused", "next", "next"),
    "processing": ("done", "paused", "next"),
    "voucher": ("paused", "next", "next"),
    "delayed": ("done", "paused", "next"),
    "provisioning": ("done", "done", "now"),
    "active": ("done", "done", "done"),
    "failed": ("failed", "next", "next"),
    "void": ("failed", "next", "next"),
    "unclaimed": ("done", "done", "paused"),
    "reversed": ("done", "done", "failed"),
}
_SEPARATORS = {
    **dict.fromkeys(("ar", "en", "hi", "ja", "ko", "ms", "th", "ur", "zh"), ","),
    **dict.fromkeys(("da", "de", "el", "es", "hr", "id", "it", "nl", "pt", "ro", "sl", "tr", "vi"), "."),
    "fr": "\u202f",
}
PROCESSING = "Your bank needs more time: your credits are added as soon as it is done."
"""The text for a payment in processing that is no bank debit."""
READ_S = 3
"""How long the customer can read that the plan is active before they are taken on."""


class Shown(NamedTuple):
    """What a page shows. `refresh_s`: when a page without a script asks again; 0: never."""

    state: str
    status: CheckoutMessage | None
    again: str
    refresh_s: int = 0
    go: str = ""
    """Where the customer is taken on to now."""
    fallback: str = ""
    """Where they are taken on to once it is active, if the session names no address."""
    home: str = ""
    """The origin of either, which they can go back to."""


def render(shown: Shown, page: ReturnPage, language: str) -> tuple[str, str]:
    """The page, and its Content-Security-Policy."""
    texts = page.texts(language, ENGLISH)
    said, own = texts[shown.state], texts["page"]
    heading = fill(said["heading"], shown.status, language)
    # Substitution is a single pass, so placeholders in the values have no effect.
    html = _TEMPLATE.substitute(
        lang=escape(language),
        title=escape(" · ".join(part for part in (heading, page.name) if part)),
        refresh=_refresh(shown),
        theme=_theme(page),
        state=shown.state,
        steps=_steps(shown, texts),
        heading=escape(heading),
        text=escape(fill(said["text"], shown.status, language)),
        go=escape(shown.go),
        go_hidden=_hidden(not shown.go),
        go_text=escape(own["go"]),
        again=escape(shown.again),
        again_hidden=_hidden("again" not in said or bool(shown.go)),
        again_text=escape(said.get("again") or own["again"]),
        back_text=escape(own["back"]),
        home=escape(shown.home),
        home_hidden=_hidden(not shown.home or bool(shown.go)),
        home_text=escape(own["home"].replace("{host}", shown.home.partition("://")[2])),
        data=_data(shown, texts),
        script="" if shown.status is None else '<script type="module" src="activate.js"></script>',
    )
    return html, _policy(html)


def _hidden(hidden: bool) -> str:
    return " hidden" if hidden else ""


def _refresh(shown: Shown) -> str:
    """For browsers without scripts only: with one, the script follows the session."""
    if shown.go:
        seconds, address = READ_S, shown.go
    elif shown.refresh_s:
        seconds, address = shown.refresh_s, shown.again
    else:
        return ""
    tag = f'<meta http-equiv="refresh" content="{seconds};url={escape(address)}">'
    return f"<noscript>{tag}</noscript>" if shown.status is not None else tag


def _steps(shown: Shown, texts: Texts) -> str:
    if shown.status is None:
        return ""
    unpaid = shown.state == "verifying" and shown.status.version == 0
    marks = MARKS["waiting" if unpaid else shown.state]
    labels = texts["steps"]
    return "".join(
        f'<li data-mark="{mark}">{_SVG.format(SIGNS.get(mark, ""))}<span>{escape(labels[step])}</span>'
        f'<span class="unseen">({escape(labels[mark])})</span></li>'
        for step, mark in zip(("payment", "check", "credits"), marks, strict=True)
    )


def fill(text: str, status: CheckoutMessage | None, language: str) -> str:
    """The text with its placeholders filled in, as the element's `phrase` does."""
    credits = status.credits_granted if status else 0
    error = status.error.message if status and status.error else ""
    debit = status.processing if status else None  # or a voucher
    values = {
        "credits": _number(credits, language),
        "granted": _granted(status, language),
        "plan": (status and status.plan) or "",
        "error": error,
        "processing": debit.message if debit else PROCESSING,
        "method": debit.name if debit else "",
        "expected": f"{debit.expected_at:%Y-%m-%d}" if debit else "",
        "pay_by": f"{debit.pay_by:%Y-%m-%d}" if debit and debit.pay_by else "",
    }
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", value)
    return text.strip()


def _granted(status: CheckoutMessage | None, language: str) -> str:
    """What was granted of each unit; of the default one alone, where it is the only one."""
    credits = status.credits_granted if status else 0
    units = status.units_granted if status and status.units_granted else {}
    others = [(unit, number) for unit, number in units.items() if number > 0]
    every = [("credits", credits), *others] if credits or not others else others
    return ", ".join(f"{_number(number, language)} {unit}" for unit, number in every)


def _number(value: int, language: str) -> str:
    separator = _SEPARATORS.get(language.partition("-")[0].lower(), "\u00a0")
    return f"{value:,}".replace(",", separator)


def _data(shown: Shown, texts: Texts) -> str:
    """What the script goes on from, as JSON that cannot end its element."""
    data: dict[str, Any] = {
        "checkout": shown.status.checkout if shown.status else "",
        "status": shown.status,
        "words": texts,
        "home": shown.home,
        "fallback": shown.fallback,
    }
    return msgspec.json.encode(data).decode().replace("<", "\\u003c")


def _theme(page: ReturnPage) -> str:
    light, dark = _declarations(page.light), _declarations(page.dark)
    return f":root {{ {light} }}" + (
        f" @media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}" if dark else ""
    )


def _declarations(theme: Theme) -> str:
    values = msgspec.to_builtins(theme)
    return " ".join(f"--{name}: {value};" for name, value in values.items() if value is not None)


def _policy(html: str) -> str:
    style = html.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'self'; style-src 'sha256-{digest}'; connect-src 'self'; "
        "base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )


SCRIPT_TAG = f'"{__version__}-{hashlib.sha256(SCRIPT).hexdigest()[:16]}"'
"""The ETag of the script."""
