"""Finds and settles what the browser and the webhook left open: events, due invoices, lists."""
