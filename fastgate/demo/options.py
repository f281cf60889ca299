"""What can be chosen: options of the command line, settings kept in a model file, one judgement for both."""

import argparse
import math
from dataclasses import asdict, dataclass, fields, replace


class DemoError(Exception):
    """Something the user can mend: printed as one line, without a traceback."""


@dataclass(frozen=True)
class Settings:
    """What a model file remembers. The fields in FIXED give the model its shape: --resume keeps them."""

    cell: str = "lstm"
    hidden: int = 128
    layers: int = 1
    embedding: int = 64  # 0: one-hot input
    dtype: str = "float32"
    batch: int = 16
    shards: int = 1  # the batch is computed in so many pieces; ranks share them
    text: str = ""  # a file's name; "": the text that Python carries
    length: int = 64
    lr: float = 0.03
    clip: float = 1.0  # 0: no clipping
    seed: int = 0


SHARDS, SAVE_EVERY = 4, 100  # with --mpi; more shards of a batch of 16 rows are slower: 12 of them 1.3 times
FIXED = ("cell", "hidden", "layers", "embedding", "dtype", "batch")


def whole(least, most=2**63 - 1):
    def check(text):
        if not least <= (value := int(text)) <= most:
            raise ValueError
        return value

    return check, f"a whole number, {least} or more" + (f", at most {most}" if most < 2**63 - 1 else "")


def number(least, strict=False):
    def check(text):
        value = float(text)
        if not math.isfinite(value) or value < least or (strict and value == least):
            raise ValueError
        return value

    return check, f"a number {'above' if strict else 'not below'} {least}"


def one_of(*words):
    def check(text):
        if text not in words:
            raise ValueError
        return text

    return check, "one of " + ", ".join(words)


def name_ending(*ends):
    def check(text):
        if not text.lower().endswith(ends):
            raise ValueError
        return text

    return check, "a file name ending in " + " or ".join(ends)


CHECKS = {
    "cell": one_of("lstm", "gru", "rnn"),
    "hidden": whole(1),
    "layers": whole(1, 64),
    "embedding": whole(0),
    "dtype": one_of("float32", "float64"),
    "batch": whole(1),
    "shards": whole(1),
    "text": (str, "a file name"),
    "length": whole(1),
    "lr": number(0, strict=True),
    "clip": number(0),
    "seed": whole(0),
    "steps": whole(0),
    "save-every": whole(0),
    "backend": one_of("c", "reference", "both"),
    "sample": whole(0),
    "temperature": number(0),
    "model": name_ending(".npz"),
    "picture": name_ending(".png", ".svg", ".pdf"),
}


def checked(name, text):
    """The value of option `name` written as `text`, or a ValueError that says what was expected."""
    check, expected = CHECKS[name]
    try:
        return check(text)
    except ValueError:
        raise ValueError(f"expected {expected}, got {text!r}") from None


def add_options(parser):
    """The options of `demo`. Those kept in the model file stay None when not given: see `settle`."""
    default = Settings()

    def option(group, name, text, metavar="N", **more):
        def kind(value):
            try:
                return checked(name, value)
            except ValueError as error:
                raise argparse.ArgumentTypeError(str(error)) from None

        if name in asdict(default) and "(default: " not in text:
            text += f" (default: {getattr(default, name)})"
        group.add_argument(f"--{name}", type=kind, metavar=metavar, help=text, **more)

    model = parser.add_argument_group("model")
    option(model, "cell", "the recurrent cell", "{lstm,gru,rnn}")
    option(model, "hidden", "hidden units of a layer")
    option(model, "layers", "layers, one above the other")
    model_input = model.add_mutually_exclusive_group()
    option(model_input, "embedding", "input: a learned vector of N numbers per character")
    one_hot = {"dest": "embedding", "action": "store_const", "const": 0}
    model_input.add_argument("--one-hot", help="input: one-hot", **one_hot)
    option(model, "dtype", "arithmetic", "{float32,float64}")

    training = parser.add_argument_group("training")
    option(training, "backend", "who computes (default: %(default)s)", "{c,reference,both}", default="both")
    steps = "training steps of this run; 0 only samples (default: %(default)s)"
    option(training, "steps", steps, default=2500)
    option(training, "batch", "parallel streams of text")
    shards = "the batch in N pieces, whose gradients are summed in a fixed order (default: 1; with --mpi 4)"
    option(training, "shards", shards)
    option(training, "length", "characters per step and stream, through which gradients flow back")
    option(training, "lr", "Adam's learning rate", "X")
    option(training, "clip", "largest norm of the gradients; 0: no clipping", "X")
    option(training, "seed", "seed of weights and batches; with --resume, of the sampled text")

    files = parser.add_argument_group("files")
    option(files, "text", "learn from this UTF-8 file (default: the help texts that Python carries)", "FILE")
    files.add_argument("--resume", metavar="FILE.npz", help="continue the model in this file, bit for bit")
    every = f"save after every N steps, too; 0: only at the end (default: 0; with --mpi {SAVE_EVERY})"
    option(files, "save-every", every)
    option(files, "model", "save here (default: the file of --resume, or fastgate-demo.npz)", "FILE.npz")
    picture = "draw the curves here (default: %(default)s)"
    option(files, "picture", picture, "FILE.png", default="fastgate-demo.png")
    files.add_argument("--no-picture", dest="picture", action="store_const", const=None, help="draw nothing")

    machines = parser.add_argument_group("more than one process")
    machines.add_argument(
        "--mpi",
        action="store_true",
        help="share each batch among the processes that mpiexec started: mpiexec -n 4 python -m fastgate demo --mpi; "
        "any number of them gives the same bits",
    )

    sampling = parser.add_argument_group("sampled text")
    option(sampling, "sample", "characters to write at the end; 0: none (default: %(default)s)", default=600)
    option(
        sampling,
        "temperature",
        "0 takes the likeliest character, 1 samples as learned (default: %(default)s)",
        "X",
        default=0.7,
    )
    sampling.add_argument("--prompt", metavar="TEXT", help='the text to be continued (default: "The ")')


def settle(args, saved=None):
    """Settings from the options given, over those of the resumed file (`saved`) or the defaults."""
    given = {f.name: getattr(args, f.name) for f in fields(Settings) if getattr(args, f.name) is not None}
    for name in FIXED if saved else ():
        if name in given and given[name] != getattr(saved, name):
            raise DemoError(
                f"--{name} {given[name]}: the model in {args.resume} has {getattr(saved, name)}; leave the option out"
            )
    if args.mpi and not saved:
        given = {"shards": min(SHARDS, given.get("batch", Settings.batch))} | given
    settings = replace(saved or Settings(), **given)
    if settings.shards > settings.batch:
        raise DemoError(f"--shards {settings.shards}: expected at most --batch {settings.batch}")
    return settings


def settings_from(saved):
    """Settings from the dict of a model file, judged as the options are; ValueError if they cannot be."""
    if set(saved) != set(asdict(Settings())):
        raise ValueError("its settings are not those of this demo")
    return Settings(**{name: checked(name, str(value)) for name, value in saved.items()})
