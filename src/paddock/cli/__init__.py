"""Starts roles or calls the HTTP API; no logic of its own."""
