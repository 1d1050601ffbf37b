"""Tensors beside a network's own that say nothing of its picture: what training, converting and saving left behind.

Each is known by its name and its shape. Whatever could be a layer's weight is none of them: it belongs to another
architecture.
"""

import math
import re
from collections.abc import Mapping

from pipeline.checkpoint.files import StoredTensor

# Buffers that networks compute anew: numbers, and rows of them. CLIP's temperature is one, and ComfyUI's mark of scaled
# weights, which have scales too.
NUMBERS = re.compile(r"(.*\.)?(num_batches_tracked|logit_scale)")
ROWS = re.compile(r"(.*\.)?(position_ids|inv_freq|scaled_fp8)")
AVERAGES = re.compile(r"(model_)?ema(_model)?\..*")  # of the weights, which are beside them


def is_stray(tensor: StoredTensor, expected: Mapping[str, tuple[int, ...]]) -> bool:
    """Tell whether a tensor that the network has no place for can't be a part of another one.

    Args:
        tensor: as the file has it.
        expected: the shapes of the network's own tensors, by their names in the file.
    """
    name, size = tensor.name, math.prod(tensor.shape)
    if size == 1:
        modules = {own.partition(".")[0] for own in expected}
        outside = name.partition(".")[0] not in modules and not name.endswith((".weight", ".bias"))
        return outside or any(known.fullmatch(name) for known in (NUMBERS, ROWS, AVERAGES))
    is_row = size == max(tensor.shape, default=1)
    is_average = tensor.shape in expected.values()
    return size == 0 or (is_row and bool(ROWS.fullmatch(name))) or (is_average and bool(AVERAGES.fullmatch(name)))
