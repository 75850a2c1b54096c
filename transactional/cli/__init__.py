"""What the verbs of `python -m transactional` do."""
