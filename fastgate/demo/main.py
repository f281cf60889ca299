"""The whole story: options, text, training, model file, picture, sampled text."""

import math
import os
import signal
import sys
import time
from importlib.util import find_spec
from itertools import chain

import numpy as np

from fastgate import get_num_threads
from fastgate.parallel import ParallelError, World, connect

from . import model, picture, text
from .checkpoint import Checkpoint, save
from .options import SAVE_EVERY, DemoError, settle
from .progress import Silence, progress
from .train import Interrupt, Run, difference, one_blas_thread, one_step_difference, train

STOPPING = {False: (signal.SIGINT,), True: (signal.SIGINT, signal.SIGTERM)}  # some launchers end ranks by SIGTERM
MOST_PARAMETERS = 2**28
EARLY = 200


def main(args):
    """Runs the demo; returns the exit status. What a user can mend is said in one line, by rank 0."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    world = World()
    try:
        world = world_of(args)
        with one_blas_thread(), world:
            return demo(args, world)
    except (DemoError, ParallelError) as error:
        return complain(world, f"error: {error}", 2)
    except MemoryError:
        return complain(world, "error: not enough memory for these sizes", 2)
    except KeyboardInterrupt:
        return complain(world, "interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def complain(world, words, status):
    """Returns the status. Where several ranks fail, all know all words, and rank 0 says them."""
    if world.rank == 0:
        print(f"fastgate demo: {words}", file=sys.stderr, flush=True)
    return status


def world_of(args):
    """The processes that mpiexec started, with --mpi; else this one."""
    if not args.mpi:
        return World()
    if not find_spec("threadpoolctl"):  # which holds NumPy's products to one thread: with several their bits could differ
        raise DemoError("--mpi needs threadpoolctl: pip install 'fastgate[mpi]'")
    try:
        return connect()
    except ImportError as error:
        raise DemoError(f"--mpi: {error}") from None


def demo(args, world):
    """Every rank goes through all of it; rank 0 alone reads, writes, prints, draws and lets the model write."""
    world.agree({f"--{name}".replace("_", "-"): value for name, value in vars(args).items()})
    say = print if world.rank == 0 else quiet
    saved = world.share(lambda: Checkpoint(args.resume)) if args.resume else None
    settings = settle(args, saved and saved.settings)
    if settings.shards < world.size:
        raise DemoError(f"--shards {settings.shards}: expected at least the number of ranks, {world.size}")
    model_path = args.model or args.resume or "fastgate-demo.npz"
    names = ("c", "reference") if args.backend == "both" else (args.backend,)
    if args.steps:
        world.share(lambda: judge_place("--model", model_path))
        if args.picture:
            world.share(lambda: judge_place("--picture", args.picture))

    words = world.share(lambda: text.read_text(settings.text)) if args.steps or not saved else None
    if saved and words is not None and text.digest(words) != saved.digest:
        name = text_name(settings)
        raise DemoError(f"--resume {args.resume}: {name} is not the text this model learned from")
    chars = saved.chars if saved else text.vocabulary(words)
    rng = np.random.default_rng(settings.seed)
    streams = None
    if words is not None:
        streams = text.Streams(text.encode(words, chars), settings.batch, settings.length, rng)
    prompt = judge_prompt(args.prompt, chars)
    count = sum(math.prod(shape) for shape in model.shapes(settings, len(chars)).values())
    if count > MOST_PARAMETERS:
        raise DemoError(f"{count:,} parameters are more than this demo takes ({MOST_PARAMETERS:,})")
    if saved:
        runs = [saved.continue_run(name, settings, world) for name in names]
        if streams:
            saved.continue_streams(streams)
    else:
        first = model.initial(settings, len(chars), rng)
        runs = [Run(name, settings, {p: a.copy() for p, a in first.items()}, world) for name in names]

    say(f"model     {describe(settings)}, {count:,} parameters, {settings.dtype}")
    stopped = False
    if args.steps:
        size = f"{settings.batch} x {settings.length} characters"
        say(f"text      {text_name(settings)}, {len(words):,} characters, {len(chars)} of them different")
        made = len(runs[0].losses)
        say(f"training  {made:,} steps made, {args.steps:,} to go, each {size}; Ctrl-C saves")
        if args.mpi:
            say(describe_ranks(world, settings))
        say(flush=True)
        digest = text.digest(words)
        with Interrupt(*STOPPING[args.mpi]) as interrupt, Exchange(world) as exchange:
            with progress(args.steps) if world.rank == 0 else Silence() as shown:
                (ids, y, _), stopped = train(
                    runs, streams, args.steps, shown, interrupt, world, save_every(args),
                    lambda: save(model_path, settings, chars, digest, streams, runs),
                )  # fmt: skip
            stopped |= interrupt.asked
        if world.rank == 0:
            print_result(runs, ids, y)
            if world.size > 1:
                print(f"{exchange.described()}\n")
            if args.picture:
                print("picture  ", picture.draw(args.picture, runs, describe(settings)))
            print(f"saved     {model_path}; continue with: python -m fastgate demo --resume {model_path}")
    if args.sample and world.rank == 0:
        print_sample(runs[0], chars, prompt, args, settings.seed)
    return 130 if stopped else 0


def quiet(*_, **__):
    """print, on all ranks but rank 0."""


def judge_place(option, path):
    """That a file can be put at `path`: found out before the work, not after it."""
    folder = os.path.dirname(os.path.realpath(path))
    if os.path.exists(path) and not os.path.isfile(path):
        raise DemoError(f"{option} {path}: not an ordinary file")
    if not os.path.isdir(folder):
        raise DemoError(f"{option} {path}: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise DemoError(f"{option} {path}: no permission to write in {folder}")


def judge_prompt(prompt, chars):
    """The numbers of the prompt's characters; without a prompt "The ", or the first character there is."""
    prompt = prompt or ("The " if set("The ") <= set(chars) else chars[0])
    for char in prompt:
        if char not in chars:
            raise DemoError(f"--prompt: {char!r} does not occur in the text")
    return [chars.index(char) for char in prompt]


def text_name(settings):
    return settings.text or "pydoc_data.topics"


def describe(settings):
    source = f"embedding {settings.embedding}" if settings.embedding else "one-hot"
    return f"{source}, {settings.layers} x {settings.cell} {settings.hidden}"


def save_every(args):
    """The steps between two saves; 0: one at the end."""
    if args.save_every is not None:
        return args.save_every
    return SAVE_EVERY if args.mpi else 0


def describe_ranks(world, settings):
    where = "one machine" if world.machines == 1 else f"{world.machines} machines"
    return (
        f"ranks     {world.size} on {where}, threads of each: {get_num_threads()}; a batch has {settings.shards} shards\n"
        f"          processes {' '.join(world.processes)}"
    )


class Exchange:
    """Within it, what part of the time goes into talking to other ranks; the mean over the ranks."""

    def __init__(self, world):
        self.world = world

    def __enter__(self):
        self.before, self.begin = dict(self.world.seconds), time.perf_counter()
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            taken = time.perf_counter() - self.begin
            shares = {name: (seconds - self.before[name]) / taken for name, seconds in self.world.seconds.items()}
            ranks = self.world.gather(shares)
            self.shares = {name: sum(rank[name] for rank in ranks) / len(ranks) for name in shares}

    def described(self):
        return (
            f"communication took {self.shares['moving']:.1%} of the time, "
            f"waiting for other ranks {self.shares['waiting']:.1%} (mean over the ranks)"
        )


def describe_difference(runs):
    """Two programs round differently and training amplifies that: the early steps say more than the late."""
    d = difference(runs)
    early = f"{d[:EARLY].max():.1e} in the first {EARLY:,} steps, " if len(d) > EARLY else ""
    return f"{early}{d.max():.1e} in all {len(d):,}"


def print_result(runs, ids, y):
    print()
    for run in runs:
        print(
            f"{run.name:9} loss {run.losses[0]:#.4g} -> {np.mean(run.losses[-25:]):#.4g} nats per character, "
            f"{run.speed():9,.0f} characters/s"
        )
    if len(runs) == 2:
        c, reference = runs
        blas = "one thread" if find_spec("threadpoolctl") else "as many threads as it takes"
        print(f"c is {c.speed() / reference.speed():.1f} times as fast as reference (NumPy's BLAS: {blas})")
        loss, gradients = one_step_difference(runs, ids, y)
        print(f"from equal parameters: the losses differ by {loss:.1e}, the gradients by {gradients:.1e}")
        print(f"over the training: the curves differ by at most {describe_difference(runs)}")
    print(flush=True)


def print_sample(run, chars, prompt, args, seed):
    """Writes character by character, as the model does; control characters do not reach the terminal."""
    rng = np.random.default_rng([seed, len(run.losses)])
    print(f"\nsampled text at temperature {args.temperature:g}:\n")
    written = run.model.sample(prompt, args.sample, args.temperature, rng)
    for k in chain(prompt, written):
        char = chars[k]
        print(char if char.isprintable() or char in "\n\t" else "?", end="", flush=True)
    print()
