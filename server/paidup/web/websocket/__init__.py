"""WebSockets: handshake, sessions, transports, and limits on received frames.

Imports run one way: first_request -> endpoint -> snapshots -> session -> transport, and endpoint ->
lightweight_protocol -> frame_limits, transport.
"""
