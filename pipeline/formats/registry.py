"""The number formats there are, by the names that users choose them by."""

from importlib import import_module

from pipeline.formats import NAMES
from pipeline.formats.number_format import NumberFormat, QuantizationError

FORMATS: dict[str, NumberFormat] = {
    name: getattr(import_module(f"pipeline.formats.{name}"), name.upper()) for name in NAMES
}


def find(quantization: str | None) -> NumberFormat | None:
    """The format of this name; for None or "none" none: weights stay what they are.

    Raises:
        QuantizationError: there is no such format.
    """
    if quantization in (None, "none"):
        return None
    if quantization in FORMATS:
        return FORMATS[quantization]
    known = " and ".join(map(repr, (None, *FORMATS)))
    raise QuantizationError(f"quantization is {quantization!r}, supported: {known}")


def find_stored(dtype: str) -> NumberFormat | None:
    """The format whose values files call so (`F8_E4M3` …); None: they are plain numbers."""
    return next((number_format for number_format in FORMATS.values() if number_format.stored_as == dtype), None)
