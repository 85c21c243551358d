"""Delivers committed changes to waiting browsers: hub, Redis pub/sub, resync, tickets."""
