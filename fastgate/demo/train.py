"""Adam, one training step, and the loop that Ctrl-C ends politely; on any number of ranks, with the same bits."""

import signal
import threading
import time
from contextlib import nullcontext
from itertools import chain

import numpy as np

from fastgate.parallel import World

from .model import CharModel, backend
from .options import DemoError


class Adam:
    """Kingma & Ba 2015, algorithm 1. Writes into the parameters.

    eps is larger, and beta2 smaller, than usual. With 1e-8 and 0.999 training amplifies rounding errors a
    thousandfold every hundred steps, so that no two programs, however exact, keep to one curve for long. With
    the values here (and a larger lr) it learns about as fast, and two programs stay together far longer.
    """

    def __init__(self, parameters, lr, beta1=0.9, beta2=0.99, eps=1e-2):
        self.lr, self.beta1, self.beta2, self.eps = lr, beta1, beta2, eps
        self.m = {name: np.zeros_like(p) for name, p in parameters.items()}
        self.v = {name: np.zeros_like(p) for name, p in parameters.items()}
        self.step = 0

    def update(self, parameters, gradients):
        self.step += 1
        scale = self.lr / (1 - self.beta1**self.step)
        unbias = (1 - self.beta2**self.step) ** -0.5
        for name, p in parameters.items():
            g, m, v = gradients[name], self.m[name], self.v[name]
            m += (1 - self.beta1) * (g - m)
            v += (1 - self.beta2) * (g * g - v)
            p -= scale * m / (np.sqrt(v) * unbias + self.eps)


class Run:
    """The training of one model by one backend: parameters, Adam, carried states, the curve, the time.

    Each rank computes its shards of the batch; parameters, Adam and the curve are the same on all. Of the states (N, H) a
    rank keeps its own rows; `gather_states` completes them.
    """

    def __init__(self, name, settings, parameters, world=None):
        self.name, self.settings = name, settings
        self.shards = (world or World()).shards(settings.batch, settings.shards)
        self.model = CharModel(backend(name), settings, parameters)
        self.adam = Adam(parameters, settings.lr)
        self.states = self.model.zero_states(settings.batch)
        self.losses = []
        self.times = []  # seconds of every step made here, not of those resumed

    def step(self, ids, y, fresh):
        begin = time.perf_counter()
        if fresh:
            self.states = self.model.zero_states(len(ids))
        for shard in self.shards:
            states = [tuple(part[shard.rows] for part in state) for state in self.states]
            loss, gradients, states_T = self.model.loss(ids[shard.rows], y[shard.rows], states)
            self.shards.add(shard, gradients, loss)
            for part, part_T in zip(chain(*states), chain(*states_T), strict=True):
                part[...] = part_T
        gradients, loss = self.shards.sum()
        norm = self.model.backend.clip_grad_norm(gradients, self.settings.clip or np.inf)
        if not np.isfinite([loss, norm]).all():
            raise DemoError(
                f"training diverged at step {len(self.losses) + 1} ({self.name}: loss {loss:g}); "
                "try a smaller --lr, or clipping. This was not saved"
            )
        self.adam.update(self.model.parameters, gradients)
        self.losses.append(loss)
        self.times.append(time.perf_counter() - begin)

    def gather_states(self):
        self.states = [tuple(self.shards.gather_rows(part) for part in state) for state in self.states]

    def speed(self):
        """Characters per second."""
        characters = self.settings.batch * self.settings.length * len(self.times)
        return characters / sum(self.times) if self.times else 0.0


class Interrupt:
    """Within it Ctrl-C, or any of the signals, is a wish, `asked`, fulfilled between two steps; a second one ends at once."""

    def __init__(self, *signals):
        self.asked, self.signals = False, signals

    def __enter__(self):
        self.handled = threading.current_thread() is threading.main_thread()
        if self.handled:
            self.before = {number: signal.signal(number, self.ask) for number in self.signals}
        return self

    def ask(self, number, _):
        self.asked = True
        signal.signal(number, signal.default_int_handler)

    def __exit__(self, *_):
        for number, handler in self.before.items() if self.handled else ():
            signal.signal(number, handler or signal.default_int_handler)


def one_blas_thread():
    """Holds NumPy's matrix products to one thread, as the kernels; without threadpoolctl, changes nothing."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return nullcontext()
    return threadpool_limits(1, user_api="blas")


def train(runs, streams, steps, progress, interrupt, world, every, save):
    """All runs make the same `steps` steps on the same batches, until Ctrl-C on any rank.

    save() is called by rank 0 at the end and after every `every` steps. Returns the last batch, and whether Ctrl-C ended it.
    """
    for done in range(1, steps + 1):
        batch = streams.next()
        for run in runs:
            with np.errstate(over="ignore", invalid="ignore"):  # Run.step itself looks for what is not finite
                run.step(*batch)
        progress.show(done, runs)
        asked = world.any(interrupt.asked)
        if asked or done == steps or (every and done % every == 0):
            for run in runs:
                run.gather_states()
            world.share(save)
        if asked:
            break
    return batch, asked


def difference(runs):
    """The distance of two runs' curves at every step."""
    a, b = (np.array(run.losses) for run in runs)
    return np.abs(a - b)


def one_step_difference(runs, ids, y):
    """Both backends at the first run's parameters and states: distance of the losses, and of the gradients.

    The latter is relative to the largest element of each gradient. Training has amplified nothing here.
    """
    first = runs[0]
    models = [CharModel(run.model.backend, run.settings, first.model.parameters) for run in runs]
    (loss, gradients, _), (loss2, gradients2, _) = (m.loss(ids, y, first.states) for m in models)
    distances = [np.abs(g - gradients2[name]).max() / (np.abs(g).max() or 1) for name, g in gradients.items()]
    return abs(loss - loss2), float(max(distances))
