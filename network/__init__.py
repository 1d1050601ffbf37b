"""How a process reaches others: by which proxy, and whom it trusts. Needs the standard library alone."""
