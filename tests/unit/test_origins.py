"""Origins: which settings are accepted, and which headers they match."""

from __future__ import annotations

import pytest

from paidup.domain.origins import origin_problems, parse_origins

EXTENSION = "abcdefghijklmnopabcdefghijklmnop"


@pytest.mark.parametrize(
    ("listed", "sent"),
    [
        ("https://app.example.com", "https://app.example.com"),
        ("https://App.Example.com", "https://app.example.com"),
        ("HTTPS://app.example.com/", "https://app.example.com"),
        ("https://app.example.com:443", "https://app.example.com"),
        ("http://app.example.com:80", "http://app.example.com"),
        ("https://app.example.com:8443", "https://app.example.com:8443"),
        ("http://app.example.com:443", "http://app.example.com:443"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("http://127.0.0.1", "http://127.0.0.1"),
        ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("ionic://localhost", "ionic://localhost"),
        ("tauri://localhost", "tauri://localhost"),
        ("Capacitor://localhost/", "capacitor://localhost"),
        ("myapp://localhost", "myapp://localhost"),
        ("app://desktop", "app://desktop"),
        (f"chrome-extension://{EXTENSION}", f"chrome-extension://{EXTENSION}"),
        (
            "moz-extension://a1b2c3d4-0000-4000-8000-a1b2c3d4e5f6",
            "moz-extension://a1b2c3d4-0000-4000-8000-a1b2c3d4e5f6",
        ),
        ("safari-web-extension://A1B2C3D4-0000", "safari-web-extension://A1B2C3D4-0000"),
    ],
)
def test_an_origin_matches_what_browsers_send(listed: str, sent: str) -> None:
    assert origin_problems("ALLOWED_ORIGINS", listed) == []
    origins = parse_origins(f"https://other.example, {listed}")
    assert sent in origins
    assert list(parse_origins(listed)) == [sent]
    for other in (
        sent.replace("://", "://evil."),
        f"{sent}.evil.example",
        f"{sent}/",
        f"x{sent}",
        "null",
        "",
    ):
        assert other not in origins


@pytest.mark.parametrize(
    "listed",
    [
        *("*", "null", "app.example.com", "//app.example.com", "https://", "https:app.example.com"),
        *("https://app.example.com/path", "https://app.example.com?x", "https://app.example.com#x"),
        *(
            "https://user:pass@app.example.com",
            "https://app.example.com:port",
            "https://app.example.com:99999",
        ),
        *("https://bücher.example", "https://app_.exa mple.com", "https://a..example.com", "http://[::1"),
        *("htps://app.example.com", "file://localhost", "javascript://localhost", "data://localhost"),
        *("capacitor://", "capacitor://localhost/path", "ws://localhost", "://localhost"),
        *("https://*", "https://*.com", "https://*.*.example.com", "https://app*.example.com"),
        *(
            "https://app.*.com",
            "https://*.127.0.0.1",
            "https://*.example.com/path",
            "capacitor://*.example.com",
        ),
    ],
)
def test_what_no_browser_sends_is_refused_in_one_line(listed: str) -> None:
    (problem,) = origin_problems("ALLOWED_ORIGINS", f"https://good.example, {listed}")
    assert problem.startswith("ALLOWED_ORIGINS: '")
    assert "pass@" not in problem
    assert "\n" not in problem


def test_a_wildcard_stands_for_exactly_one_label() -> None:
    origins = parse_origins("https://*.Example.com, http://*.dev.example.com:8080")
    for sent in ("https://a.example.com", "https://preview-42.example.com", "http://x.dev.example.com:8080"):
        assert sent in origins
    for sent in (
        *("https://example.com", "https://.example.com", "https://a.b.example.com", "http://a.example.com"),
        *("https://a.example.com:8443", "https://aexample.com", "https://a.example.com.evil.example"),
        *("https://*.example.com", "https://evil.example/.example.com", "https://evil.example#.example.com"),
        *(
            "https://a.exampleXcom",
            "https://-.example.com",
            "https://user@a.example.com",
            "https://A\n.example.com",
        ),
        *("http://x.dev.example.com", "http://x.dev.example.com:80801"),
    ):
        assert sent not in origins


def test_an_example_of_a_wildcard_is_in_it() -> None:
    origins = parse_origins("https://*.example.com")
    assert origins.example() == "https://www.example.com"
    assert origins.example() in origins
