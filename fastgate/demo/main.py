"""The whole story: options, text, training, model file, picture, sampled text."""

import math
import os
import sys
from importlib.util import find_spec
from itertools import chain

import numpy as np

from . import model, picture, text
from .checkpoint import Checkpoint, save
from .options import DemoError, settle
from .progress import progress
from .train import Interrupt, Run, difference, one_blas_thread, one_step_difference, train

MOST_PARAMETERS = 2**28
EARLY = 200


def main(args):
    """Runs the demo; returns the exit status. What a user can mend is said in one line."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    try:
        with one_blas_thread():
            return demo(args)
    except DemoError as error:
        print(f"fastgate demo: error: {error}", file=sys.stderr)
        return 2
    except MemoryError:
        print("fastgate demo: error: not enough memory for these sizes", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fastgate demo: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def demo(args):
    saved = Checkpoint(args.resume) if args.resume else None
    settings = settle(args, saved and saved.settings)
    model_path = args.model or args.resume or "fastgate-demo.npz"
    names = ("c", "reference") if args.backend == "both" else (args.backend,)
    if args.steps:
        judge_place("--model", model_path)
        if args.picture:
            judge_place("--picture", args.picture)

    words = text.read_text(settings.text) if args.steps or not saved else None
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
        runs = [saved.continue_run(name, settings) for name in names]
        if streams:
            saved.continue_streams(streams)
    else:
        first = model.initial(settings, len(chars), rng)
        runs = [Run(name, settings, {p: a.copy() for p, a in first.items()}) for name in names]

    print(f"model     {describe(settings)}, {count:,} parameters, {settings.dtype}")
    stopped = False
    if args.steps:
        size = f"{settings.batch} x {settings.length} characters"
        print(f"text      {text_name(settings)}, {len(words):,} characters, {len(chars)} of them different")
        made = len(runs[0].losses)
        print(f"training  {made:,} steps made, {args.steps:,} to go, each {size}; Ctrl-C saves")
        print(flush=True)
        with Interrupt() as interrupt:
            with progress(args.steps) as shown:
                ids, y, _ = train(runs, streams, args.steps, shown, interrupt)
            save(model_path, settings, chars, text.digest(words), streams, runs)
            stopped = interrupt.asked
        print_result(runs, ids, y)
        if args.picture:
            print("picture  ", picture.draw(args.picture, runs, describe(settings)))
        print(f"saved     {model_path}; continue with: python -m fastgate demo --resume {model_path}")
    if args.sample:
        print_sample(runs[0], chars, prompt, args, settings.seed)
    return 130 if stopped else 0


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
