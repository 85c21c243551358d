"""The sandbox: a stateful imitation of the part of Stripe that Paidup uses.

It implements Stripe's HTTP API at the SDK's pinned version, so the real SDK works against it unchanged, and
it sends signed webhooks. It is a separate program: the server only knows its address. It processes no real
payments, stores no real cards, and must not be exposed to the internet.
"""
