"""python -m transactional."""
