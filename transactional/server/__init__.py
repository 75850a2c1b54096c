"""One store served to many processes over HTTP."""
