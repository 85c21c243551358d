"""Paidup inside another application."""
