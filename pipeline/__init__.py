"""Z-Image in plain PyTorch: from a prompt to pixels. Owns the model and nothing of queues or jobs."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.checkpoint.config import CheckpointError
    from pipeline.drawing import Drawing, Generation
    from pipeline.pipeline import ZImagePipeline
    from pipeline.skipping import StepCache

__all__ = ["TINY_CHECKPOINT", "CheckpointError", "Drawing", "Generation", "StepCache", "ZImagePipeline"]

TINY_CHECKPOINT = Path(__file__).parent / "models" / "tiny"  # the bundled model; `training/` says how it was made

_MODULES = {
    "CheckpointError": "checkpoint.config",
    "Drawing": "drawing",
    "Generation": "drawing",
    "StepCache": "skipping",
    "ZImagePipeline": "pipeline",
}


def __getattr__(name: str) -> Any:
    """Import torch and transformers when a name is first used: they take seconds, and many importers never draw."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
