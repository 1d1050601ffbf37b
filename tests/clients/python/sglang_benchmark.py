"""SGLang's `bench_serving`, unchanged, without what its packages import beside it: triton and the like.

It takes the same options.
"""

import runpy
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

spec = find_spec("sglang")
assert spec
assert spec.origin
for name, folder in (("sglang", "."), ("sglang.multimodal_gen", "multimodal_gen")):
    package = ModuleType(name)
    package.__path__ = [str(Path(spec.origin).parent / folder)]
    sys.modules[name] = package
runpy.run_module("sglang.multimodal_gen.benchmarks.bench_serving", run_name="__main__")
