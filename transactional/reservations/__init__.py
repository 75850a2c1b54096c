"""Reservations: half-open intervals of a resource, held, confirmed, never double booked."""
