"""The device: the thread that owns it, and which GPU it is."""
