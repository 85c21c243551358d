"""The sandbox: a stateful imitation of the part of Stripe that Paidup uses.

It speaks Stripe's HTTP API at the SDK's pinned version, so the real SDK works against it unchanged, and it
sends signed webhooks. It is a separate program: the server knows nothing of it but an address. It moves no
money, stores no real card, and is not for the open internet.
"""
