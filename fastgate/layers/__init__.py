"""Recurrent layers: stacks and directions of a cell, their parameters and gradients each in one flat array.

rnn.py lstm.py gru.py     RNN, LSTM, GRU: a constructor, the equations' options
leaky.py memory.py        Leaky, Memory: the same    lstm_norm.py gru_norm.py  LSTMNorm, GRUNorm: the same
tree.py                   TreeRNN, TreeLSTM: the same over trees, level by level    _trees.py  Trees: which node is whose child
_layer.py                 what the layers of all cells share: forward, backward, step
_parameters.py            what all layers share: weights and gradients by name and flat, files, copies
truncated.py              truncated_bptt: chunks, gradients through a window
_buffer.py                one array, named views    _initial.py  fresh weights    _judge.py  judges what a layer is given
_symbols.py               symbols as rows of x, for decoding    _affine.py  x W + b by the core
"""

from fastgate.layers._parameters import load
from fastgate.layers._trees import Trees
from fastgate.layers.gru import GRU
from fastgate.layers.gru_norm import GRUNorm
from fastgate.layers.leaky import Leaky
from fastgate.layers.lstm import LSTM
from fastgate.layers.lstm_norm import LSTMNorm
from fastgate.layers.memory import Memory
from fastgate.layers.rnn import RNN
from fastgate.layers.tree import TreeLSTM, TreeRNN
from fastgate.layers.truncated import truncated_bptt

__all__ = [
    "RNN", "LSTM", "GRU", "Leaky", "Memory", "LSTMNorm", "GRUNorm", "TreeRNN", "TreeLSTM", "Trees", "load", "truncated_bptt",
]  # fmt: skip
