"""Writes what training conversations with tools need to know of the agent: layout and tools.

`anybind.core_model.training.toolchat` may not import the agent or the tools. It reads this file
instead: the prompt of `anybind.agent.protocol` with marks where tools, history and request go, and
every registered tool. Run it again when a tool or the prompt changes; a test holds the two together.

    python scripts/tool_protocol.py [--out core_model/training/tool_protocol.json]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from anybind.agent import protocol
from anybind.plugins import registry
from anybind.tooling import tool

DEFAULT = Path(__file__).parents[1] / "core_model" / "training" / "tool_protocol.json"
NAME, DESCRIPTION, HISTORY, REQUEST = "<<NAME>>", "<<DESCRIPTION>>", "<<HISTORY>>", "<<REQUEST>>"


def describe() -> dict[str, Any]:
    """The content of the file."""
    stand_in = tool(NAME)(_stand_in)
    layout = protocol.prompt([stand_in], [HISTORY], REQUEST)
    listed = f"> {NAME}: {DESCRIPTION}"
    before, _, rest = layout.partition(listed)
    middle, _, rest = rest.partition(f"[{NAME}]")
    after, _, rest = rest.partition(f"\n{HISTORY}")
    between, _, end = rest.partition(REQUEST)
    return {
        "about": "Written by scripts/tool_protocol.py from agent/protocol.py and the registered tools.",
        "prompt": {
            "before_tools": before,
            "tool": "> {name}: {description}",
            "before_names": middle + "[",
            "before_history": "]" + after,
            "before_request": between,
            "end": end,
        },
        "upload": protocol.upload_line("{name}", "{description}"),
        "use": protocol.USE,
        "tools": [
            {
                "name": t.name,
                "description": t.description,
                "arguments": [{"name": p.name, "kind": p.kind} for p in t.parameters],
            }
            for t in registry().tools.values()
        ],
    }


def _stand_in(text: str) -> str:
    """<<DESCRIPTION>>"""
    return text


def main() -> None:
    """Write the file."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--out", type=Path, default=DEFAULT)
    args = p.parse_args()
    text = json.dumps(describe(), indent=1, ensure_ascii=False) + "\n"
    args.out.write_text(text, encoding="utf-8")
    print(f"{args.out}: {len(describe()['tools'])} tools")


if __name__ == "__main__":
    main()
