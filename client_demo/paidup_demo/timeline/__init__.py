"""The demo's timeline: what happened to a purchase, drawn to scale, and faults to inject into it."""
