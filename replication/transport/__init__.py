"""How frames travel. A transport moves bytes; it knows nothing of what they say."""
