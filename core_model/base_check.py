"""Does this adapter belong to this base? Asked before a wrong pair can talk garbage.

Three questions, from certain to likely: do the sizes agree; do both sides know who the base is
(`identity.py`) and is it the same; and if not, does the adapter behave as on its own base: plain text
must not become much harder to predict, and its tuned norms must still resemble the base's. An
adapter on a foreign base of the same sizes is noise, and fails both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from anybind.core_model.adapters import Adapter, apply_adapter, check_sizes
from anybind.core_model.checkpoints import LoadReport
from anybind.core_model.identity import same
from anybind.core_model.llama import Llama
from anybind.core_model.lora import merge_lora
from anybind.core_model.tokenizer import Tokenizer
from anybind.errors import ModelError

LOSS_MARGIN = 0.5
"""Nats a token that plain text may get worse by."""
NORM_LIKENESS = 0.5
"""Least correlation of tuned norms with those of the base (median over the norms)."""
_SENTENCES = (
    "The sun rises in the east and sets in the west, and between the two lies the whole day.",
    "A small dog ran across the street, stopped in front of the bakery and began to bark.",
    "Water boils at one hundred degrees Celsius at sea level, and at less on a high mountain.",
    "She opened the letter, read it twice, and then put it back into the drawer of her desk.",
    "The library is open from nine in the morning until six in the evening on working days.",
    "今天天气很好，我们一起去公园散步吧。",
    "北京是中国的首都，也是一座历史悠久的城市。",
)


@dataclass(frozen=True)
class BaseCheck:
    """What was found."""

    identity: bool | None
    """Same base by identity; None if that can't be told."""
    loss_before: float = float("nan")
    """Mean nats a token of plain text, base alone."""
    loss_after: float = float("nan")
    """With the adapter."""
    norms: float = float("nan")
    """Correlation of the tuned norms with the base's; nan if there are none to compare."""

    @property
    def fault(self) -> str:
        """What speaks against the pair; "" if nothing does."""
        if self.identity is not None:
            return "" if self.identity else "it was trained on other weights than these"
        if not self.loss_after - self.loss_before <= LOSS_MARGIN:  # also catches nan
            return (
                f"with it, plain text costs {self.loss_after:.2f} nats a token instead of "
                f"{self.loss_before:.2f}"
            )
        if self.norms < NORM_LIKENESS:
            return f"its norms are unlike those of this base (correlation {self.norms:.2f})"
        return ""


def attach(
    decoder: Llama,
    adapter: Adapter,
    tokenizer: Tokenizer,
    *,
    identity: str = "",
    merge: bool = False,
    check: bool = True,
    name: str = "the decoder",
) -> tuple[LoadReport, BaseCheck | None]:
    """Apply an adapter to its base, in place, and make sure that it is its base.

    Args:
        decoder: The base, as loaded.
        adapter: What to apply.
        tokenizer: Of the base.
        identity: Of the base, as its load reported it.
        merge: Take the low-rank updates into the weights.
        check: False takes any base of the right sizes.
        name: Of the base, for errors.

    Raises:
        ModelError: sizes differ, or the check speaks against it; the decoder is of no use then.
    """
    known = same(adapter.base, identity)
    before, likeness = float("nan"), float("nan")
    functional = check and known is None and bool(adapter.decoder)
    check_sizes(decoder, adapter)
    if check and known is False:
        _refuse(adapter, name, BaseCheck(False))
    if functional:
        rows = sentences(tokenizer)
        before, likeness = mean_loss(decoder, rows), norm_likeness(decoder, adapter)
    report = apply_adapter(decoder, adapter)
    found = None
    if check:
        after = mean_loss(decoder, rows) if functional else float("nan")
        found = BaseCheck(known, before, after, likeness)
        if functional and found.fault:
            _refuse(adapter, name, found)
    if merge:
        merged(decoder)
    return report, found


def merged(decoder: Llama) -> None:
    """Merge the updates, and say so in the configuration."""
    from dataclasses import replace

    if merge_lora(decoder):
        decoder.config = replace(decoder.config, lora_rank=0)


def _refuse(adapter: Adapter, name: str, found: BaseCheck) -> None:
    source = adapter.about.get("source", "The adapter")
    raise ModelError(
        f"{source} does not belong to {name}: {found.fault}. It belongs to {adapter.base_hint}. "
        'Use that base, or set "check_base": false in the options of the model to load it anyway.'
    )


def sentences(tokenizer: Tokenizer) -> list[list[int]]:
    """The fixed sentences that the tokenizer can say, as ids."""
    rows: list[list[int]] = []
    for text in _SENTENCES:
        ids = tokenizer.encode(text)
        if tokenizer.decode(ids).strip() == text and len(ids) > 1:
            rows.append(([tokenizer.bos] if tokenizer.bos is not None else []) + ids)
    if not rows:
        raise ModelError("The tokenizer can't write a plain English sentence; is it this base's?")
    return rows


@torch.inference_mode()
def mean_loss(decoder: Llama, rows: Sequence[Sequence[int]]) -> float:
    """Mean nats a token over all rows, nothing injected."""
    total, count = 0.0, 0
    for row in rows:
        ids = torch.tensor([list(row)], device=decoder.device)
        logits = decoder(ids)[0, :-1].float()
        total += float(F.cross_entropy(logits, ids[0, 1:], reduction="sum"))
        count += len(row) - 1
    return total / count


@torch.inference_mode()
def norm_likeness(decoder: Llama, adapter: Adapter) -> float:
    """Median correlation of the adapter's norms with the base's; nan without any that vary."""
    base = decoder.state_dict()
    found: list[float] = []
    for name, tuned in adapter.decoder.items():
        if name.endswith("norm.weight"):
            own = base[name].float().cpu()
            pair = torch.stack((own, tuned.float().cpu()))
            if pair.shape == (2, own.numel()) and pair.std(1).min() > 1e-3 * pair.abs().mean():
                found.append(float(torch.corrcoef(pair)[0, 1]))
    return sorted(found)[len(found) // 2] if found else float("nan")
