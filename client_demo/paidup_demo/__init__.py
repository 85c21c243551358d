"""The demo: the browser client, a small application on top of it, and a sandbox for Stripe."""
