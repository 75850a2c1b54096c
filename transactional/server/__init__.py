"""One store served to many processes over HTTP.

An engine belongs to one process.  The authority owns it and passes each request on as one call of
the store (`calls.py`), after it was admitted (`admission.py`) and within the rights of the client
that asks (`clients.py`, `scoped.py`); it adds nothing to the meaning of the store.
`stores/http.py` is its client.  Import it only to serve: clients need no server.
"""

from transactional.server.admission import Listen
from transactional.server.clients import ClientList
from transactional.server.server import Authority

__all__ = ["Authority", "ClientList", "Listen"]
