"""Which test runs each command in the documents. A command in none of these lists fails the check.

tests/documents/test_commands.py runs the commands of `HERE` unchanged against a running server. The
named test runs each command of `ELSEWHERE`. `OUTSIDE` says what a command needs that tests do not have.
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
    "paidup init --sandbox": "test_init_sandbox_migrate_and_serve_sell_a_plan",
    "paidup sandbox": "test_init_sandbox_migrate_and_serve_sell_a_plan",
    (
        "paidup sandbox --plans plans.toml --webhook-url http://127.0.0.1:3000/webhooks "
        "--webhook-secret whsec_of_your_tests &"
    ): "test_events_go_to_the_url_signed_with_the_secret",
    "paidup serve --workers 2": "test_two_workers_notify_each_other_without_configuration",
    "paidup work": "test_the_processes_of_the_procfile_run_together",
    "honcho start": "test_the_processes_of_the_procfile_run_together",
    (
        'paidup grant user_17 --credits 500 --reason "A day of outage" --key T-17'
    ): "test_the_commands_do_the_same",
    ('paidup revoke T-17 --reason "The wrong customer" --key T-17-undone'): "test_the_commands_do_the_same",
    (
        'paidup adjust user_17 --credits=-50 --reason "Counted twice" --key T-18'
    ): "test_the_commands_do_the_same",
    (
        'paidup grant user_17 --invoice in_… --paid-by wire --reason "Statement of 3 March" --key T-19'
    ): "test_an_invoice_paid_outside_of_stripe_is_credited_once",
    (
        'paidup grant user_17 --credits 2000 --plan pro --paid-by wire --reason "Invoice 2027-31" --key T-20'
    ): "test_the_commands_do_the_same",
    (
        'paidup link-customer cus_… user_17 --reason "They wrote from that address" --key T-21'
    ): "test_the_commands_do_the_same",
    (
        "paidup endpoints create https://app.example.com/hooks/paidup --type credits.granted"
    ): "test_endpoints_and_deliveries_are_managed_by_commands",
    "paidup deliveries list --state dead": "test_endpoints_and_deliveries_are_managed_by_commands",
    "paidup listen --forward-to localhost:3000/hooks/paidup": "test_listen_forwards_what_trigger_sends",
    "paidup trigger credits.granted": "test_listen_forwards_what_trigger_sends",
    (
        'paidup merge-accounts user_17 user_18 --reason "They signed up twice" --key T-22'
    ): "test_the_commands_do_the_same",
    (
        'paidup erase user_17 --reason "Their request of 3 March" --key T-23 --also jane@example.com'
    ): "test_the_commands_do_the_same",
    "make chaos": "test_whatever_is_killed_every_paid_invoice_is_credited_once_and_every_watcher_told",
    "make soak": "test_customers_come_and_go_and_nothing_of_them_is_left",
}

OUTSIDE = {
    re.compile(r"make (test|check|docs-check|format|lock|bench|clean|migrations)$"): (
        "it runs the tests, or changes this directory"
    ),
    re.compile(r"(\.venv/bin/pip|npm|python3 -m venv) |PAIDUP_URL=\S+ .* uvicorn "): (
        "a package registry; tests/packaging, tests/node and tests/browser do the same"
    ),
    re.compile(r"stripe (listen|login)\b"): "the Stripe CLI and an account",
    re.compile(r"docker (build|compose)\b"): "Docker",
    re.compile(r"kubectl "): "a Kubernetes cluster",
    re.compile(r"mkdir -m 700 secrets$|cp server/paidup/plans\.toml plans\.toml$|for name in |echo "): (
        "it changes this directory"
    ),
    re.compile(r"systemctl "): "a machine with systemd",
    re.compile(r"git clone |cd [\w./-]+$"): "the repository's URL, and a directory",
}
