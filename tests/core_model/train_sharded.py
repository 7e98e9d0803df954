"""Two processes, every layer sharded by FSDP2: losses, gradients and checkpoints of the plain model.

`torch.distributed.run --nproc_per_node=2 train_sharded.py BASE SITE`; prints "same" at the end.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard

from anybind.core_model.training.building import build_parts
from anybind.core_model.training.schedule import parameter_groups
from anybind.core_model.training.sharded import gather, scatter, whole
from anybind.core_model.training.trainee import Trainee
from tests.core_model.train_tiny import TinyBatch, make_batch, stage

ALL = ["bind", "queries", "gates", "lora", "biases", "norms"]


def loss_of(trainee: Trainee, b: TinyBatch) -> torch.Tensor:
    return trainee(b.tokens, b.labels, b.segments, b.positions, b.features, b.present).loss


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    config = stage(
        Path(sys.argv[1]), trainables__groups=ALL, trainables__lora={"rank": 4},
        model__bind__injection=sys.argv[2], activation_checkpointing=True,
    )  # fmt: skip
    plain, sharded = build_parts(config), build_parts(config)
    names = frozenset(plain.trainables)
    for parts in (plain, sharded):
        torch.nn.init.constant_(parts.trainee.bind.gate, 0.3)
    for layer in sharded.trainee.decoder.layers:
        fully_shard(layer)
    fully_shard(sharded.trainee)
    batches = [make_batch(1), make_batch(2)]
    made = []
    for parts in (plain, sharded):
        groups = parameter_groups(parts.trainee.named_parameters(), config.optimizer)
        made.append(torch.optim.AdamW(groups, lr=0.01))
    (sum(loss_of(plain.trainee, b) for b in batches) / 2).backward()  # type: ignore[union-attr]
    mine = loss_of(sharded.trainee, batches[rank])
    torch.testing.assert_close(mine, loss_of(plain.trainee, batches[rank]))
    mine.backward()  # FSDP averages over the processes
    wanted = {n: p.grad for n, p in plain.trainee.named_parameters() if p.requires_grad}
    for name, parameter in sharded.trainee.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            torch.testing.assert_close(
                whole(parameter.grad), wanted[name], atol=1e-4, rtol=1e-4, msg=name
            )
    for optimizer in made:
        optimizer.step()
        optimizer.zero_grad()
    kept, moments = gather(sharded.trainee, made[1], names)
    if rank == 0:
        assert set(kept) == names and {k.split("|")[0] for k in moments} == names
        for name, parameter in plain.trainables.items():
            torch.testing.assert_close(kept[name], parameter.detach(), atol=2e-4, rtol=1e-3)
    holder = [kept, moments]
    dist.broadcast_object_list(holder)
    for parameter in sharded.trainee.parameters():
        if parameter.requires_grad:
            torch.nn.init.zeros_(parameter)
    scatter(sharded.trainee, made[1], holder[0], holder[1], names)
    again, moments_again = gather(sharded.trainee, made[1], names)
    if rank == 0:
        assert all(torch.equal(again[n], kept[n]) for n in names)
        assert all(torch.equal(moments_again[k], moments[k]) for k in moments)
    dist.barrier()
    dist.destroy_process_group()
    if rank == 0:
        print("same")


if __name__ == "__main__":
    main()
