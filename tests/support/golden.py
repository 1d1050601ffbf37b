"""What the code of commit 6fe91d6 wrote to a real Valkey: records, a card, an idempotency entry; and its digests.

Releases after it must read all of it: workers and APIs of two releases share one Redis.
"""

import json
from typing import Any

from support.root import ROOT

GOLDEN: dict[str, Any] = json.loads((ROOT / "tests/golden/6fe91d6.json").read_text(encoding="utf-8"))
