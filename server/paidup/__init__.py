"""Paidup's server: turns a confirmed Stripe payment into credits, once, and tells the waiting browser."""

__version__ = "0.1.0"
