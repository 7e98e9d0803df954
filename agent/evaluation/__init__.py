"""What a bundle reaches on data that nothing was trained on: `anybind eval`.

One module a kind of measure; `measures.py` lists them. Every measure asks through the front door (a
session), keeps every answer, and reports a share with a 95 % interval. The data is a folder that
`benchmarks/prepare.py` fills; nothing here fetches.
"""

from __future__ import annotations

from anybind.agent.evaluation.bench import Bench, Row
from anybind.agent.evaluation.data import Data

__all__ = ["Bench", "Data", "Row"]
