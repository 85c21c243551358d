"""Delivers outbound events to the SaaS's own systems: dispatcher, sender, endpoints and replays."""
