"""The edge: HTTP and sockets in, one service called, an answer out. Imported by `app.py` alone."""
