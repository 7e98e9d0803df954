"""Low-rank updates beside a linear layer: y = W x + b + B (A x), merged into W on request.

Knows linear layers and nothing else. As in the released checkpoints there is no scaling and no
dropout: A [rank, in] starts random, B [out, rank] at zero, so a fresh update changes nothing.
A decoder without updates holds plain `nn.Linear` layers and pays nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LoRALinear(nn.Linear):
    """A linear layer with an unmerged update: y = W x + b + B (A x)."""

    def __init__(self, inputs: int, outputs: int, rank: int, *, bias: bool = False) -> None:
        super().__init__(inputs, outputs, bias=bias)
        self.lora_a = nn.Parameter(torch.empty(rank, inputs))
        self.lora_b = nn.Parameter(torch.zeros(outputs, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def update(self, x: Tensor) -> Tensor:
        """B (A x) alone; computed in the type of A and B, given back in that of x."""
        low = F.linear(x.to(self.lora_a.dtype), self.lora_a)
        return F.linear(low, self.lora_b).to(x.dtype)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + self.update(input)


class MergedLinear(nn.Linear):
    """A linear layer whose weight has taken the update in, and remembers it.

    Runs as a plain layer. Only the value projection needs the memory: the injected condition
    goes through it without the update (`base_product`).
    """

    lora_a: Tensor
    lora_b: Tensor

    def __init__(self, old: LoRALinear) -> None:
        # Built empty: the tensors are taken over, not copied.
        super().__init__(old.in_features, old.out_features, bias=False, device="meta")
        self.weight, self.bias = _merged_weight(old), old.bias
        self.register_buffer("lora_a", old.lora_a.detach(), persistent=False)
        self.register_buffer("lora_b", old.lora_b.detach(), persistent=False)


def make_linear(inputs: int, outputs: int, *, bias: bool, rank: int) -> nn.Linear:
    """A plain layer for rank 0, else one with an update of that rank."""
    if rank:
        return LoRALinear(inputs, outputs, rank, bias=bias)
    return nn.Linear(inputs, outputs, bias=bias)


def product(linear: nn.Linear, x: Tensor) -> Tensor:
    """The layer's output without its bias, the update included."""
    x = x.to(linear.weight.dtype)
    out = F.linear(x, linear.weight)
    return out + linear.update(x) if isinstance(linear, LoRALinear) else out


def base_product(linear: nn.Linear, x: Tensor) -> Tensor:
    """W x with the W of the base: without bias and without the update, merged or not."""
    x = x.to(linear.weight.dtype)
    out = F.linear(x, linear.weight)
    if isinstance(linear, MergedLinear):
        low = F.linear(x.to(linear.lora_a.dtype), linear.lora_a)
        out = out - F.linear(low, linear.lora_b).to(out.dtype)
    return out


def equip(linear: nn.Linear, *, bias: bool, rank: int) -> nn.Linear:
    """A layer over the same weight, with room for a bias and an update of `rank`.

    The new tensors are neutral (zeros; A random), in the type and on the device of the weight. A
    bias that is there is kept. A layer that has all of it already is given back.
    """
    weight = linear.weight
    if isinstance(linear, MergedLinear):
        raise ValueError("an update was merged into this layer; load the base afresh")
    if isinstance(linear, LoRALinear) and rank and linear.lora_a.shape[0] != rank:
        raise ValueError(f"the layer has an update of rank {linear.lora_a.shape[0]}, not {rank}")
    new = linear
    if rank and not isinstance(linear, LoRALinear):
        # On the meta device: the layer's own weight is replaced at once and need not be made.
        with torch.device("meta"):
            new = LoRALinear(linear.in_features, linear.out_features, rank)
        new.weight, new.bias = weight, linear.bias
        new.lora_a = nn.Parameter(weight.new_empty(rank, linear.in_features))
        new.lora_b = nn.Parameter(weight.new_zeros(linear.out_features, rank))
        nn.init.kaiming_uniform_(new.lora_a, a=math.sqrt(5))
    if bias and new.bias is None:
        zeros = torch.zeros(linear.out_features, dtype=weight.dtype, device=weight.device)
        new.bias = nn.Parameter(zeros, requires_grad=weight.requires_grad)
    return new


def lora_layers(model: nn.Module) -> Iterator[tuple[nn.Module, str, LoRALinear]]:
    """Parent, attribute name and layer of every unmerged update in a model."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LoRALinear):
                yield parent, name, child


@torch.no_grad()
def merge_lora(model: nn.Module) -> int:
    """Take every update into its weight, in place, W <- W + B A; the number of layers changed.

    The result runs as fast as a model without updates. It equals the unmerged one up to
    rounding: about 1e-6 of the logits in float32. The sum is formed in float32 and stored in
    the type of the weight. The value projections keep a copy of their update (see
    `MergedLinear`).
    """
    count = 0
    for parent, name, old in lora_layers(model):
        if name == "wv":
            new: nn.Linear = MergedLinear(old)
        else:
            new = nn.Linear(old.in_features, old.out_features, bias=False, device="meta")
            new.weight, new.bias = _merged_weight(old), old.bias
        setattr(parent, name, new.train(old.training))
        count += 1
    return count


def _merged_weight(old: LoRALinear) -> nn.Parameter:
    update = old.lora_b.detach().float() @ old.lora_a.detach().float()
    merged = (old.weight.detach().float() + update).to(old.weight.dtype)
    return nn.Parameter(merged, requires_grad=old.weight.requires_grad)
