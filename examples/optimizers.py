"""Optimisers over flat arrays: a layer is one array of parameters and one of gradients, so a step is a few NumPy calls.

    adam = Adam([layer.parameters, V, c])
    adam.step([layer.gradients, dV, dc])

Parameters are written in place, gradients are read, and a step allocates nothing.
"""

import numpy as np


class SGD:
    """v <- momentum v + dp;  p <- p - rate v   (Polyak 1964, as in PyTorch: the rate outside of v)."""

    def __init__(self, parameters, rate=0.1, momentum=0.9):
        self.parameters, self.rate, self.momentum = list(parameters), rate, momentum
        self.velocity = [np.zeros_like(p) for p in self.parameters]
        self.scratch = [np.empty_like(p) for p in self.parameters]

    def step(self, gradients):
        for p, dp, v, s in zip(self.parameters, gradients, self.velocity, self.scratch, strict=True):
            v *= self.momentum
            v += dp
            p -= np.multiply(v, self.rate, out=s)


class Adam:
    """m <- β1 m + (1 - β1) dp,  v <- β2 v + (1 - β2) dp²,  m̂ = m / (1 - β1^t),  v̂ = v / (1 - β2^t);
    p <- p - rate m̂ / (√v̂ + eps)   (Kingma and Ba 2015, algorithm 1)."""

    def __init__(self, parameters, rate=1e-3, betas=(0.9, 0.999), eps=1e-8):
        self.parameters, self.rate, self.betas, self.eps = list(parameters), rate, betas, eps
        self.m = [np.zeros_like(p) for p in self.parameters]
        self.v = [np.zeros_like(p) for p in self.parameters]
        self.scratch = [np.empty_like(p) for p in self.parameters]
        self.t = 0

    def step(self, gradients):
        self.t += 1
        beta1, beta2 = self.betas
        for p, dp, m, v, s in zip(self.parameters, gradients, self.m, self.v, self.scratch, strict=True):
            np.multiply(dp, 1 - beta1, out=s)
            m *= beta1
            m += s
            np.multiply(dp, dp, out=s)
            s *= 1 - beta2
            v *= beta2
            v += s
            np.divide(v, 1 - beta2**self.t, out=s)
            np.sqrt(s, out=s)
            s += self.eps
            np.divide(m, s, out=s)
            s *= self.rate / (1 - beta1**self.t)
            p -= s
