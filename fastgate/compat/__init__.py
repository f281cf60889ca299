"""Drop-ins for code that others wrote: each module has the names, signatures and conventions of one source.

cs231n.py      rnn_layers.py of the CS231n assignments: functions, batch first, gates i f o g
dlfs2.py       the Time… layers of "Deep Learning from Scratch 2": params and grads in lists, gates f g i o
autograd.py    rnn, lstm, gru that HIPS autograd differentiates
jax.py         rnn, lstm, gru for JAX on the CPU, as host callbacks
keras.py       the recurrent functions that the NumPy backend of Keras 3 lacks
onnx.py        the operators LSTM, GRU and RNN for the reference evaluator of ONNX
torch.py       nn.LSTM, nn.GRU, nn.RNN on the CPU
_shared.py     what cs231n.py and dlfs2.py share        _dlfs2_around.py  the layers of dlfs2 that have no state

Each is thin, on the public functions, and is imported by name, with the package that it adapts to: `import fastgate` and
`import fastgate.compat` import none of them. docs/swap-it-in.md has a page for each.
"""
