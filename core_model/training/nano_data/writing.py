"""Samples to our own JSONL and back to nothing: the reader is `training.data.own`.

Embeddings go beside it, one row a sample, into a safetensors file of the layout that
`SourceConfig.features` reads; a row is found by the attachment that the line names.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from anybind.core_model.training.samples import TrainingSample


def as_json(sample: TrainingSample, attachment: str = "") -> dict[str, Any]:
    """A sample as one object of our format, without its embedding.

    Args:
        sample: The sample.
        attachment: Name under which its embedding is kept; "" for none.
    """
    muted: dict[int, list[list[int]]] = defaultdict(list)
    for span in sample.muted:
        muted[span.message].append([span.start, span.end])
    messages: list[dict[str, Any]] = []
    for number, message in enumerate(sample.messages):
        row: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.input:
            row["input"] = message.input
        if muted[number]:
            row["mute"] = muted[number]
        messages.append(row)
    out: dict[str, Any] = {"id": sample.key, "source": sample.source, "messages": messages}
    if attachment:
        out["attachments"] = [attachment]
        if sample.words:
            out["words"] = sample.words
    return out
