"""How a process reaches others. Needs the standard library alone, so that client, service and model can share it."""
