"""Atomic words and a polite waiting loop, as LLVM IR inlined by numba."""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils

from anybind.core_model.fast.vectors import I64, intrinsic


@intrinsic
def atomic_add(typingctx, at, amount):
    """Add to the int64 at an address; what was there before."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        at = builder.inttoptr(args[0], I64.as_pointer())
        return builder.atomic_rmw("add", at, args[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def atomic_load(typingctx, at):
    """The int64 at an address."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        at = builder.inttoptr(args[0], I64.as_pointer())
        return builder.load_atomic(at, "seq_cst", 8, typ=I64)

    return types.int64(types.int64), codegen


@intrinsic
def atomic_store(typingctx, at, value):
    """Write the int64 at an address."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        at = builder.inttoptr(args[0], I64.as_pointer())
        builder.store_atomic(args[1], at, "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def breathe(typingctx):
    """Tell the processor that this is a waiting loop."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if "x86" in llvm.get_process_triple() or "i686" in llvm.get_process_triple():
            kind = ir.FunctionType(ir.VoidType(), [])
            pause = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause")
            builder.call(pause, [])
        return context.get_dummy_value()

    return types.void(), codegen
