"""OpenAI's images API as this service speaks it."""
