"""Which URLs an endpoint for events may have."""

from __future__ import annotations

import pytest

from paidup.domain.endpoint_urls import url_problem
from paidup.domain.outbound_settings import OutboundSettings, outbound_problems

PUBLIC = [
    "https://app.example.com/hooks/paidup",
    "https://app.example.com:8443/hooks?from=paidup",
    "https://93.184.215.14/hook",
    "https://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]/hook",
]
INSIDE = [
    "https://localhost/hook",
    "https://backend/hook",
    "https://api.internal/hook",
    "https://backend.prod.svc.cluster.local/hook",
    "https://127.0.0.1/hook",
    "https://10.1.2.3/hook",
    "https://192.168.0.7/hook",
    "https://169.254.169.254/latest/meta-data",
    "https://100.64.0.1/hook",
    "https://224.0.0.1/hook",
    "https://0.0.0.0/hook",
    "https://[::1]/hook",
    "https://[fd00::1]/hook",
    "https://[::ffff:127.0.0.1]/hook",
    "https://127.1/hook",
    "https://2130706433/hook",
    "https://0x7f.0.0.0x1/hook",
]
NEVER = [
    "",
    "app.example.com/hook",
    "ftp://app.example.com/hook",
    "https:///hook",
    "https://user:secret@app.example.com/hook",
    "https://app.example.com/hook#here",
    "https://app.example.com:99999/hook",
    "https://[::1/hook",
    "https://app.example.com/a b",
    "https://app.exämple.com/hook",
    "https://app.example.com/\n",
    "https://app.example.com/" + "a" * 2000,
]


@pytest.mark.parametrize("url", PUBLIC)
def test_a_public_https_address_is_taken(url: str) -> None:
    assert url_problem(url, private_allowed=False) is None


@pytest.mark.parametrize("url", ["http://app.example.com/hook", *INSIDE])
def test_an_address_inside_and_plain_http_need_a_setting(url: str) -> None:
    problem = url_problem(url, private_allowed=False)
    assert problem
    assert "EVENT_PRIVATE_ADDRESSES=allow" in problem
    assert url_problem(url, private_allowed=True) is None


@pytest.mark.parametrize("url", NEVER)
def test_what_no_event_can_be_sent_to_is_refused_in_one_line(url: str) -> None:
    for allowed in (False, True):
        problem = url_problem(url, private_allowed=allowed)
        assert problem
        assert "\n" not in problem
        assert "secret" not in problem


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://app.example.com/hook?key=secret", "http://app.example.com/hook"),
        ("https://user:secret@app.example.com/hook#secret", "https://app.example.com/hook"),
        ("https://app.example.com/a b?key=secret", "https://app.example.com/a b"),
        ("user:secret@app.example.com/hook", "address 2"),
        ("https://user:se/cret@app.example.com:x", "address 2"),
        ("https://[::1/hook?key=secret", "address 2"),
    ],
)
def test_a_mistake_in_the_settings_names_the_endpoint_without_its_secrets(url: str, name: str) -> None:
    settings = OutboundSettings(
        event_endpoints=f"https://app.example.com/hook?key=secret, {url}", event_secret="whsec_" + "A" * 32
    )
    (problem,) = outbound_problems(settings)
    assert problem.startswith(f"EVENT_ENDPOINTS: {name}: The URL ")
    assert "secret" not in problem
    assert "cret@" not in problem
