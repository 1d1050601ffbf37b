"""What the settings name by an address: each is read once, here.

What is refused is told in one line that says what is wrong and what is right. It repeats nothing of the address, since
any part of it may be a secret in the wrong place.
"""


class SettingError(ValueError):
    """Something that can't be used of what only its user can judge; one line that names the setting."""
