"""The sockets on which a browser waits: handshake, session, transport."""
