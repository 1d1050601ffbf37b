"""SGLang's `bench_serving`, unchanged, without what the packages that it lies in import of SGLang's engine.

They want triton, torchvision and others that PyPI has for CUDA's torch only; the benchmark uses none of them. It takes
the same options.
"""

import runpy
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

ENGINE = ("sglang", "sglang.multimodal_gen", "sglang.srt.utils")

spec = find_spec("sglang")
assert spec
assert spec.origin
for name in ENGINE:
    package = ModuleType(name)
    package.__path__ = [str(Path(spec.origin).parents[1].joinpath(*name.split(".")))]
    sys.modules[name] = package
runpy.run_module("sglang.multimodal_gen.benchmarks.bench_serving", run_name="__main__")
