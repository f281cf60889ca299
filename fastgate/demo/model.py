"""A character model: x = E[ids], stacked recurrent layers, o = h V + c. The backend is a module; two fit.

`fastgate` and `fastgate.reference` have the same functions with the same signatures, so the model below never
asks which of them it was given.
"""

import importlib

import numpy as np

GATES = {"rnn": 1, "lstm": 4, "gru": 3}


def backend(name):
    """The module behind a backend's name: the C kernels, or NumPy alone."""
    return importlib.import_module({"c": "fastgate", "reference": "fastgate.reference"}[name])


def shapes(settings, K):
    """Name -> shape of every parameter, for K different characters. Without E the input is one-hot, D = K."""
    G, H, D = GATES[settings.cell], settings.hidden, settings.embedding or K
    result = {"E": (K, D)} if settings.embedding else {}
    for layer in range(settings.layers):
        result |= {f"Wx{layer}": (D, G * H), f"Wh{layer}": (H, G * H), f"b{layer}": (G * H,)}
        D = H
    return result | {"V": (H, K), "c": (K,)}


def initial(settings, K, rng):
    """Fresh parameters: E normal, weights uniform within 1/sqrt(H), biases 0 (the LSTM's forget gate: 1)."""
    H, result = settings.hidden, {}
    for name, shape in shapes(settings, K).items():
        if name == "E":
            value = rng.standard_normal(shape)
        elif len(shape) == 2:
            value = rng.uniform(-(H**-0.5), H**-0.5, shape)
        else:
            value = np.zeros(shape)
            if settings.cell == "lstm" and name.startswith("b"):
                value[H : 2 * H] = 1
        result[name] = value.astype(settings.dtype)
    return result


def rows(a):
    """(N, T, D) -> (N·T, D)."""
    return a.reshape(-1, a.shape[-1])


def one_hot(ids, K, dtype):
    x = np.zeros((*ids.shape, K), dtype)
    np.put_along_axis(x, ids[..., None], 1, axis=-1)
    return x


def scatter_add(ids, dx, K):
    """dE (K, D): row k is the sum of the rows of dx whose id is k, added in the order of the text."""
    order = np.argsort(ids, axis=None, kind="stable")
    found, begin = np.unique(ids.ravel()[order], return_index=True)
    dE = np.zeros((K, dx.shape[-1]), dx.dtype)
    dE[found] = np.add.reduceat(rows(dx)[order], begin, axis=0)
    return dE


class CharModel:
    """The model over one backend. `states` is a list, a layer's entry is (h,) or, for the LSTM, (h, c)."""

    def __init__(self, backend, settings, parameters):
        self.backend, self.settings, self.parameters = backend, settings, parameters
        self.forward = getattr(backend, f"{settings.cell}_forward")
        self.backward = getattr(backend, f"{settings.cell}_backward")
        self.step_forward = getattr(backend, f"{settings.cell}_step_forward")

    def layer(self, i):
        return (self.parameters[f"{name}{i}"] for name in ("Wx", "Wh", "b"))

    def zero_states(self, N):
        zero = np.zeros((N, self.settings.hidden), self.settings.dtype)
        parts = 2 if self.settings.cell == "lstm" else 1
        return [tuple(zero.copy() for _ in range(parts)) for _ in range(self.settings.layers)]

    def inputs(self, ids):
        V = self.parameters["V"]
        return self.parameters["E"][ids] if "E" in self.parameters else one_hot(ids, V.shape[1], V.dtype)

    def loss(self, ids, y, states):
        """Mean loss per character, its gradients {name: array}, and the states after the last character.

        ids, y (N, T). No gradient flows into `states`: this is truncated backpropagation through time.
        """
        V, c = self.parameters["V"], self.parameters["c"]

        h, states_T, caches = self.inputs(ids), [], []
        for i, state in enumerate(states):
            h, *state_T, cache = self.forward(h, *state, *self.layer(i))
            states_T.append(tuple(state_T))
            caches.append(cache)
        o = (rows(h) @ V + c).reshape(*ids.shape, -1)
        loss, do = self.backend.softmax_cross_entropy(o, y, reduction="mean")

        gradients = {"V": rows(h).T @ rows(do), "c": rows(do).sum(axis=0)}
        dh = (rows(do) @ V.T).reshape(h.shape)
        for i in reversed(range(len(caches))):
            need = ("dx", "dWx", "dWh", "db") if i > 0 or "E" in self.parameters else ("dWx", "dWh", "db")
            d = self.backward(dh, caches[i], need=need)
            gradients |= {f"Wx{i}": d.dWx, f"Wh{i}": d.dWh, f"b{i}": d.db}
            dh = d.dx
        if "E" in self.parameters:
            gradients["E"] = scatter_add(ids, dh, len(c))
        return float(loss), gradients, states_T

    def step(self, k, states):
        """One character, number k: the outputs o (K,) for the next one, and the new states."""
        h, states_next = self.inputs(np.array([k])), []
        for i, state in enumerate(states):
            *state_next, _ = self.step_forward(h, *state, *self.layer(i), training=False)
            states_next.append(tuple(state_next))
            h = state_next[0]
        return (h @ self.parameters["V"] + self.parameters["c"])[0], states_next

    def sample(self, prompt, count, temperature, rng):
        """Yields the numbers of `count` characters that continue `prompt` (numbers too, at least one)."""
        states = self.zero_states(1)
        for k in prompt:
            o, states = self.step(k, states)
        for _ in range(count):
            k = draw(o, temperature, rng)
            yield k
            o, states = self.step(k, states)


def draw(o, temperature, rng):
    """A number drawn from softmax(o / temperature); the likeliest one at temperature 0."""
    if temperature == 0:
        return int(np.argmax(o))
    with np.errstate(over="ignore"):
        edges = np.cumsum(np.exp((o - o.max()).astype(np.float64) / temperature))
    return int(np.searchsorted(edges, rng.random() * edges[-1], side="right"))
