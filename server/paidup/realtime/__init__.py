"""From a committed change to the waiting browser: hub, Redis pub/sub, resync, tickets."""
