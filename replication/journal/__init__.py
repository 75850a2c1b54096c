"""Durability of one replica. A journal is never shared: it belongs to one process at a time."""
