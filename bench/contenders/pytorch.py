"""PyTorch: nn.LSTM, nn.GRU, nn.RNN, batch first, on the same memory; inference_mode, or autograd, fresh gradients.

PyTorch's weights are ours transposed, `(G·H, D)`, in the same gate orders (LSTM ifgo, GRU rzn), and its GRU resets
after the product. Its second bias is zero and wants no gradient, as ours is not given.
"""

import numpy as np
import torch

from ..cases import FORWARD, Case, Unsupported
from . import Calls

NAME = "PyTorch"
LAYERS = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}


def version() -> str:
    return torch.__version__


def prepare(case: Case, threads: int) -> Calls:
    if case.cell not in LAYERS:
        raise Unsupported(f"{NAME} has no {case.cell}")
    torch.set_num_threads(threads)
    _, _, D, H = case.sizes
    layer = LAYERS[case.cell](D, H, batch_first=True, dtype=getattr(torch, case.x.dtype.name))
    with torch.no_grad():
        layer.weight_ih_l0.copy_(torch.from_numpy(case.Wx.T))
        layer.weight_hh_l0.copy_(torch.from_numpy(case.Wh.T))
        layer.bias_ih_l0.copy_(torch.from_numpy(case.b))
        layer.bias_hh_l0.zero_()
    layer.bias_hh_l0.requires_grad_(False)
    x = torch.from_numpy(case.x)
    states = [torch.from_numpy(state)[None] for state in case.states.values()]
    state = tuple(states) if len(states) > 1 else states[0]

    def outputs(result: tuple) -> dict[str, np.ndarray]:
        h, last = result
        finals = last if isinstance(last, tuple) else (last,)
        names = [f"{name[0]}_T" for name in case.states]
        return {"h": h.numpy(force=True)} | {
            name: final[0].numpy(force=True) for name, final in zip(names, finals, strict=True)
        }

    if case.what == FORWARD:
        layer.eval()

        @torch.inference_mode()
        def forward() -> tuple:
            return layer(x, state)

        return Calls(forward, outputs)

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
        result = layer(x, state)
        result[0].backward(dh)
        return result

    def outputs_and_gradients(result: tuple) -> dict[str, np.ndarray]:
        gradients = {name: tensor.grad.numpy() for name, tensor in wanted.items()}
        return outputs(result) | gradients | {name: gradients[name].T for name in ("dWx", "dWh")}

    return Calls(forward_and_backward, outputs_and_gradients)
