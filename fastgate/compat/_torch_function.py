"""One direction of one layer, or one step of a cell, as a function that PyTorch's autograd knows.

Tensors and arrays share their memory. What backward needs besides the inputs is the cache of fastgate's forward. It hangs on an
empty tensor, the token, which is saved as the inputs are: so it goes when autograd lets go of what it saved, and where hooks on
saved tensors (activation checkpointing, save_on_cpu) hand back another tensor, backward runs forward again.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

import fastgate


class Call(NamedTuple):
    """Which function of fastgate, and its options."""

    cell: str  # "rnn", "lstm", "gru"
    kind: str  # "" sequences, "ragged_" packed ones, "step_" one step
    options: dict[str, Any]  # activation=, reverse=, batch_sizes=

    @property
    def states(self) -> int:
        return 2 if self.cell == "lstm" else 1


def run(call: Call, x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """(h, h_T) or (h, h_T, c_T), of a step (h_next,) or (h_next, c_next), with gradients where they are asked for.

    x : (T, N, D), packed (sum T, D), of a step (N, D). states : h0 or h0, c0, each (N, H), or none = zeros.
    weights : (G·H, D), (G·H, H), both biases (G·H,) or neither, and a projection (P, H), with which h is P wide, or none, as
    torch.nn holds them. h has the shape of x with H in place of D, and is contiguous. Shapes are judged by fastgate.
    """
    tensors = (x, *(states or (None,) * call.states), *weights)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        return _Recurrence.apply(call, *tensors)
    return _forward(call, tensors, training=False)[0]


class _Recurrence(torch.autograd.Function):
    """The same with gradients."""

    @staticmethod
    def forward(ctx: Any, call: Call, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        results, cache = _forward(call, tensors, training=True)
        token: Any = results[0].new_empty(0)
        token.cache = cache
        ctx.call = call
        ctx.save_for_backward(*tensors, token)
        ctx.set_materialize_grads(False)
        return results

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        call, needs = ctx.call, ctx.needs_input_grad[1:]
        *tensors, token = ctx.saved_tensors
        if not _plain(upstream):
            return None, *_by_torch(call, tensors, needs, upstream)
        cache = getattr(token, "cache", None) or _forward(call, tensors, training=True)[1]
        return None, *_backward(call, cache, needs, upstream)


def _array(tensor: Tensor | None) -> Any:
    """The tensor's memory as NumPy sees it."""
    return None if tensor is None else tensor.numpy(force=True)


def _by_name(weights: Sequence[Any]) -> dict[str, Any]:
    """The weights of `run` by the names of fastgate's arguments."""
    return dict(zip(("Wx", "Wh", *("b", "bh") * (len(weights) > 3), "Wr"), weights, strict=False))


def _forward(call: Call, tensors: Sequence[Tensor | None], training: bool) -> tuple[tuple[Tensor, ...], Any]:
    """(results, cache)"""
    x, *arrays = map(_array, tensors)
    states, weights = arrays[: call.states], {name: a.T for name, a in _by_name(arrays[call.states :]).items()}
    forward, options = getattr(fastgate, f"{call.cell}_{call.kind}forward"), {"training": training} | call.options | weights
    if call.kind:
        *results, cache = forward(x, *states, **options)
        return tuple(map(torch.from_numpy, results)), cache
    first: Any = tensors[0]
    h = first.new_empty(*x.shape[:2], len(weights["Wh"]))  # time first, whatever the order of x, as torch's own
    _, *results, cache = forward(x.swapaxes(0, 1), *states, out=h.numpy().swapaxes(0, 1), **options)
    return (h, *map(torch.from_numpy, results)), cache


def _backward(call: Call, cache: Any, needs: Sequence[bool], upstream: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The gradients of `tensors` that are needed, None for the others."""
    backward = getattr(fastgate, f"{call.cell}_{call.kind}backward")
    states = (("dh_prev", "dc_prev") if call.kind == "step_" else ("dh0", "dc0"))[: call.states]
    names = ("dx", *states, *(f"d{name}" for name in _by_name(needs[1 + call.states :])))
    need = [name for name, needed in zip(names, needs, strict=True) if needed]
    dh, *rest = map(_array, upstream)
    if call.kind == "step_":
        found = backward(dh, *rest, cache, need=need)
    else:
        found = backward(dh if dh is None or call.kind else dh.swapaxes(0, 1), cache, *rest, need=need)
    axes = {"dx": (0, 0 if call.kind else 1), "dWx": (0, 1), "dWh": (0, 1), "dWr": (0, 1)}  # that change places
    pairs = zip(names, found, strict=False)
    return [None if g is None else torch.from_numpy(g.swapaxes(*axes.get(name, (0, 0)))) for name, g in pairs]


def _plain(upstream: Sequence[Tensor | None]) -> bool:
    """Whether NumPy can read the gradients, which are no batches of them, and nobody asks for gradients of the result."""
    batched = torch._C._functorch.is_legacy_batchedtensor  # is_grads_batched=True
    return not (
        torch.is_grad_enabled()  # create_graph=True
        or torch._C._are_functorch_transforms_active()
        or any(g is not None and (type(g) is not Tensor or batched(g)) for g in upstream)
    )


def _by_torch(
    call: Call, tensors: Sequence[Any], needs: Sequence[bool], upstream: Sequence[Tensor | None]
) -> list[Tensor | None]:  # fmt: skip
    """The same gradients by torch's own operators, which can be batched, and have gradients themselves."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views: where one tensor is made from another, the gradient must not pass along that way a second time.
        views = [t.view_as(t) if needed else t for t, needed in zip(tensors, needs, strict=True)]
        results = zip(_torch_forward(call, views), upstream, strict=True)
        outputs, gradients = zip(*((result, g) for result, g in results if g is not None), strict=True)
        wanted = [view for view, needed in zip(views, needs, strict=True) if needed]
        found = iter(torch.autograd.grad(outputs, wanted, gradients, create_graph=again, allow_unused=True))
    return [next(found) if needed else None for needed in needs]


def _torch_forward(call: Call, tensors: Sequence[Any]) -> tuple[Tensor, ...]:
    """What `run` computes, by torch's own operators."""
    x, states, weights = tensors[0], tensors[1 : 1 + call.states], tensors[1 + call.states :]
    name = call.cell + (f"_{call.options['activation']}" if call.cell == "rnn" else "")
    batch_sizes = call.options.get("batch_sizes")
    N = x.shape[-2] if batch_sizes is None else int(batch_sizes[0])
    sizes = weights[1].shape[1], weights[1].shape[0] // 4  # of h, and of c
    states = [x.new_zeros(N, size) if state is None else state for state, size in zip(states, sizes, strict=False)]
    if call.kind == "step_":
        found = getattr(torch, f"{name}_cell")(x, states if call.states == 2 else states[0], *weights)
        return found if call.states == 2 else (found,)
    # torch knows the second direction beside the first only: there it has the same weights, and its results are not used.
    directions = 2 if call.options["reverse"] else 1
    states = [state.expand(directions, -1, -1) for state in states]
    rest = (list(weights) * directions, len(weights) > 3, 1, 0.0, True, directions == 2)
    hidden = states if call.states == 2 else states[0]
    if batch_sizes is None:
        h, *finals = getattr(torch, name)(x, hidden, *rest, False)
    else:
        h, *finals = getattr(torch, name)(x, torch.from_numpy(batch_sizes), hidden, *rest)
    return h.chunk(directions, -1)[-1], *(final[-1] for final in finals)
