"""The demos: their pure parts, and whole runs as a user starts them."""
