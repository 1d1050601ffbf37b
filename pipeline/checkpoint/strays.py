"""Tensors beside a network's own that say nothing of its picture: what training, converting and saving left behind.

Whatever could be a layer's weight is none of them: it belongs to another architecture.
"""

import math
import re
from collections.abc import Collection

from pipeline.checkpoint.files import StoredTensor

# Buffers that networks compute anew, CLIP's temperature, and ComfyUI's mark of scaled weights, which have scales too.
LEFTOVERS = re.compile(r"(.*\.)?(position_ids|inv_freq|num_batches_tracked|logit_scale|scaled_fp8)")
AVERAGES = re.compile(r"(model_)?ema(_model)?\..*")  # of the weights, which are beside them


def is_stray(tensor: StoredTensor, modules: Collection[str]) -> bool:
    """Tell whether a tensor that the network has no place for can't be a part of another one.

    Args:
        tensor: as the file has it.
        modules: the network's own: what its tensors' names in the file begin with, up to the first dot.
    """
    size = math.prod(tensor.shape)
    if size == 0 or LEFTOVERS.fullmatch(tensor.name) or AVERAGES.fullmatch(tensor.name):
        return True
    outside = tensor.name.partition(".")[0] not in modules
    return size == 1 and outside and not tensor.name.endswith((".weight", ".bias"))
