"""Addresses that customers go on to: what a session takes, and what the return page follows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paidup.domain.onward_addresses import MAX_LENGTH, allowed_origin, resolved
from paidup.domain.origins import parse_origins

PAGE = "https://app.example.com"
ORIGINS = parse_origins(f"{PAGE},https://*.shops.example,http://localhost:3000,capacitor://localhost")


@pytest.mark.parametrize(
    ("wanted", "address", "origin"),
    [
        ("/welcome?a=1#b", f"{PAGE}/welcome?a=1#b", PAGE),
        (PAGE, PAGE, PAGE),
        (f"{PAGE}?a=1", f"{PAGE}?a=1", PAGE),
        ("HTTPS://App.Example.com:443/Start", f"{PAGE}/Start", PAGE),
        ("https://one.shops.example/x", "https://one.shops.example/x", "https://one.shops.example"),
        ("http://localhost:3000/", "http://localhost:3000/", "http://localhost:3000"),
        ("capacitor://localhost/done", "capacitor://localhost/done", "capacitor://localhost"),
    ],
)
def test_what_a_session_takes_is_what_the_page_goes_on_to(wanted: str, address: str, origin: str) -> None:
    """As browsers write it: the page compares an origin as text."""
    assert resolved(wanted, ORIGINS, PAGE) == address
    assert allowed_origin(address, ORIGINS) == origin


@pytest.mark.parametrize(
    "wanted",
    [
        *("//elsewhere.example", "https://elsewhere.example", f"{PAGE}.elsewhere.example/", f"{PAGE}:8443/"),
        *(f"{PAGE}@elsewhere.example/", f"https://user@{PAGE[8:]}/", f"{PAGE}\\@elsewhere.example/"),
        *("javascript:alert(1)", "https://a.b.shops.example/", f"{PAGE}/\n", f"{PAGE}/ö", ""),
        *(f"{PAGE}/{'a' * MAX_LENGTH}", f"/{'a' * (MAX_LENGTH - 1)}"),
    ],
)
def test_any_other_address_is_refused(wanted: str) -> None:
    """Including one that would not fit into its column together with the page's origin."""
    assert resolved(wanted, ORIGINS, PAGE) is None


PARTS = [*"/\\:@?#. \t\n%*", "//", "https:", "HTTPS://", PAGE, "app.example.com", "elsewhere.example", ":443"]


@given(st.lists(st.sampled_from(PARTS), max_size=8).map("".join))
def test_whatever_a_session_takes_the_page_goes_on_to(written: str) -> None:
    address = resolved(written, ORIGINS, PAGE)
    assert address is None or allowed_origin(address, ORIGINS)
