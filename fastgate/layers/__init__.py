"""Recurrent layers: stacks and directions of a cell, their parameters and gradients each in one flat array.

rnn.py lstm.py gru.py     RNN, LSTM, GRU: a constructor, the equations' options
_layer.py                 what the three share: forward, backward, step
_parameters.py            what all layers share: weights and gradients by name and flat, files, copies
truncated.py              truncated_bptt: chunks, gradients through a window
_buffer.py                one array, named views    _initial.py  fresh weights    _judge.py  judges what a layer is given
"""

from fastgate.layers._parameters import load
from fastgate.layers.gru import GRU
from fastgate.layers.lstm import LSTM
from fastgate.layers.rnn import RNN
from fastgate.layers.truncated import truncated_bptt

__all__ = ["RNN", "LSTM", "GRU", "load", "truncated_bptt"]
