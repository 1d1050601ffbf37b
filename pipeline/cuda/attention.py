"""Which of torch's attention backends works: cards, builds and masks differ in what they have a kernel for.

Torch asks a backend whether it can do something, and takes its word: some find out only when they are called.
"""

import logging
from collections.abc import Callable
from typing import TypeVar

from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.faults import Fault, fault_of

log = logging.getLogger(__name__)

# cuDNN's is the quickest on Hopper: 0.5 ms for 4,160 tokens where flash takes 0.8; it has no plan for some masks.
BACKENDS = (
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
)

Output = TypeVar("Output")

_failed: dict[str, int] = {}  # how many of them have, for a kind of attention


def attend_by_first(kind: str, run: Callable[[], Output]) -> Output:
    """Run attention by the first backend that works; those before it are not asked again for this kind.

    Args:
        kind: what backends differ in, such as "masked tokens".
        run: calls `scaled_dot_product_attention`; has no other effect than its result, since it may run again.

    Raises:
        RuntimeError: that of the first backend, where none works; of too little memory (`Fault.MEMORY`) at once.
    """
    errors: list[RuntimeError] = []
    for first in range(_failed.get(kind, 0), len(BACKENDS)):
        try:
            with sdpa_kernel(list(BACKENDS[first:]), set_priority=True):
                result = run()
        except RuntimeError as error:
            if fault_of(error) is Fault.MEMORY:
                raise
            errors.append(error)
            log.warning("attention over %s by %s fails: %s", kind, BACKENDS[first].name, error)
        else:
            _failed[kind] = first
            return result
    raise errors[0]
