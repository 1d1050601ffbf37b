"""The HTTP front: thin, asynchronous, without torch."""
