"""How a process reaches others: by which proxy, whom it trusts, which files are theirs.

Needs the standard library alone.
"""
