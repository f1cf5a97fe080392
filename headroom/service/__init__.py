"""The batch service: a queue of load tests and plans for a team, an HTTP API over it, and pages."""
