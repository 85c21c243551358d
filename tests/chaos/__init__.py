"""The hammer: thousands of purchases, renewals and spends while everything is killed again and again.

`python -m tests.chaos` (`make chaos`) runs several server and worker processes against the sandbox on
real databases, spoils Stripe's side, kills processes, Valkey and the database's connections; then
comes quiet, then the audit. It ends with 1 where anything is wrong, and says which seed it used.
"""
