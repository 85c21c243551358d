"""Which addresses may say who the client is (FORWARDED_ALLOW_IPS)."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_network


def proxy_problems(proxies: Sequence[str]) -> list[str]:
    """uvicorn treats what it cannot parse as a literal that matches no peer, without an error."""
    problems = []
    for text in proxies:
        try:
            everybody = ip_network(text).prefixlen == 0
        except ValueError:
            everybody = text == "*"
            if not everybody:
                problems.append(
                    f"FORWARDED_ALLOW_IPS: {text!r} is not an address or network such as 10.0.0.0/8"
                )
        if everybody:
            problems.append(
                f"FORWARDED_ALLOW_IPS: {text!r} would trust any client's X-Forwarded-For; list the "
                "addresses or networks of your proxies, such as 10.0.0.0/8"
            )
    return problems
