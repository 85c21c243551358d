"""Which test runs each command that a document shows. One that is in none of these lists fails the check.

`HERE` are run, as they stand, by tests/documents/test_commands.py against a running server.
`ELSEWHERE` are run by the test that is named. `OUTSIDE` need what a test cannot have; each says what.
"""

from __future__ import annotations

import re

HERE = re.compile(
    r"paidup (doctor|migrate|audit|explain|backfill|replay|stripe-setup|work --once)\b"
    r"|curl |openssl rand |cp \.env\.example \.env$"
)

ELSEWHERE = {
    "make demo": "test_a_whole_purchase_by_http_and_websocket",
    "paidup demo": "test_a_whole_purchase_by_http_and_websocket",
    "paidup serve": "test_the_processes_of_the_procfile_run_together",
    "paidup serve --workers 2": "test_two_workers_hear_each_other_with_nothing_configured",
    "paidup work": "test_the_processes_of_the_procfile_run_together",
    "honcho start": "test_the_processes_of_the_procfile_run_together",
    "make chaos": "test_whatever_is_killed_every_paid_invoice_is_credited_once_and_every_watcher_told",
    "make soak": "test_customers_come_and_go_and_nothing_of_them_is_left",
}

OUTSIDE = {
    re.compile(r"make (test|check|docs-check|format|lock|bench|clean|migrations)$"): (
        "it is what runs the tests, or changes this very folder"
    ),
    re.compile(r"stripe (listen|login)\b"): "Stripe's own program, and an account",
    re.compile(r"docker (build|compose)\b"): "Docker, which is not where the tests run",
    re.compile(r"systemctl "): "a machine that systemd runs",
    re.compile(r"git clone |cd [\w./-]+$"): "the repository's own address, and a folder",
}
