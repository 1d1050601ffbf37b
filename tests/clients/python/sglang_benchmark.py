"""SGLang's `bench_serving` itself, without what its packages load beside it when they are imported: triton and the like.

Called as it is: its options are ours.
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
