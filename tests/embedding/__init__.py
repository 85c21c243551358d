"""The Python client, and Paidup inside another application."""
