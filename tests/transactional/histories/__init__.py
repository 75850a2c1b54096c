"""Histories of real processes: eight clients, one authority, and what is done to all of them."""
