"""Attacks on the product: what an attacker or an unlucky client can do, and what stops it.

docs/security.md has the figures.
"""
