"""What one account may ask for in a minute, counted in all processes through Redis."""
