"""What the settings name by an address: each is read once, here.

What is refused is told in one line that says what is wrong and what is right. It repeats nothing of the address but
a file's path, since any part of it may be a secret in the wrong place.
"""


class SettingError(ValueError):
    """A setting, ours or a library's, that can't be used; one line that names it."""
