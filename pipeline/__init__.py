"""Z-Image in plain PyTorch: from a prompt to pixels. Owns the model and nothing of queues or jobs."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.checkpoint.config import CheckpointError
    from pipeline.pipeline import Generation, ZImagePipeline

__all__ = ["TINY_CHECKPOINT", "CheckpointError", "Generation", "ZImagePipeline"]

TINY_CHECKPOINT = Path(__file__).parent / "models" / "tiny"  # the bundled model; `training/` says how it was made


def __getattr__(name: str) -> Any:
    """Import torch and transformers when a name is first used: they take seconds, and many importers never draw."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pipeline import pipeline
    from pipeline.checkpoint import config

    return getattr(config if name == "CheckpointError" else pipeline, name)
