"""Webhooks: where they may go, who signs them, and their delivery."""
