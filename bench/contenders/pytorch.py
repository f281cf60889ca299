"""PyTorch: nn.LSTM, nn.GRU, nn.RNN, batch first, on the same memory; inference_mode, or autograd, fresh gradients.

PyTorch's weights are ours transposed, `(G·H, D)`, in the same gate orders (LSTM ifgo, GRU rzn), and its GRU resets
after the product. Its second bias is zero and wants no gradient, as ours is not given. Ragged rows are packed before
the layer and padded after it, within the timing, as a user of padded arrays must.
"""

import numpy as np
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ..cases import Case
from ..clip import Gradients
from . import Calls, named, require

NAME = "PyTorch"
LAYERS = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}


def version() -> str:
    return torch.__version__


def prepare(case: Case, threads: int) -> Calls:
    require(NAME, case, LAYERS)
    torch.set_num_threads(threads)
    T, _, D, H = case.sizes
    layer = LAYERS[case.cell](D, H, batch_first=True, dtype=getattr(torch, case.dtype))
    with torch.no_grad():
        layer.weight_ih_l0.copy_(torch.from_numpy(case.Wx.T))
        layer.weight_hh_l0.copy_(torch.from_numpy(case.Wh.T))
        layer.bias_ih_l0.copy_(torch.from_numpy(case.b))
        layer.bias_hh_l0.zero_()
    layer.bias_hh_l0.requires_grad_(False)
    x = torch.from_numpy(case.x)
    states = [torch.from_numpy(state)[None] for state in case.states.values()]
    state = tuple(states) if len(states) > 1 else states[0]

    if case.lengths is None:

        def run() -> tuple:
            return layer(x, state)
    else:
        lengths = torch.from_numpy(case.lengths)

        def run() -> tuple:
            h, last = layer(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False), state)
            return pad_packed_sequence(h, batch_first=True, total_length=T)[0], last

    def outputs(result: tuple) -> dict[str, np.ndarray]:
        h, last = result
        finals = last if isinstance(last, tuple) else (last,)
        return named(case, h.numpy(force=True), [final[0].numpy(force=True) for final in finals])

    if not case.training:
        layer.eval()
        return Calls(torch.inference_mode()(run), outputs)

    x.requires_grad_()
    dh = torch.from_numpy(case.dh)
    wanted = {
        "dx": x,
        "dWx": layer.weight_ih_l0,
        "dWh": layer.weight_hh_l0,
        "db": layer.bias_ih_l0,
    }

    def forward_and_backward() -> tuple:
        for tensor in wanted.values():
            tensor.grad = None
        result = run()
        result[0].backward(dh)
        return result

    def outputs_and_gradients(result: tuple) -> dict[str, np.ndarray]:
        gradients = {name: tensor.grad.numpy() for name, tensor in wanted.items()}
        return outputs(result) | gradients | {name: gradients[name].T for name in ("dWx", "dWh")}

    return Calls(forward_and_backward, outputs_and_gradients)


def clip(gradients: Gradients, threads: int) -> Calls:
    torch.set_num_threads(threads)
    arrays, limits = gradients.copies(), gradients.limits()
    parameters = []
    for array in arrays:
        parameters.append(torch.nn.Parameter(torch.empty(array.shape, dtype=getattr(torch, gradients.dtype))))
        parameters[-1].grad = torch.from_numpy(array)
    return Calls(
        lambda: torch.nn.utils.clip_grad_norm_(parameters, next(limits)),
        lambda norm: gradients.results(float(norm), arrays),
    )
