"""The agent: a replica with a body - socket, disk and clock. The only event loop of the package."""
