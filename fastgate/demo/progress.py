"""How far it is: a bar on a terminal (with tqdm), plain lines elsewhere."""

import sys
import time

LINES = 20


def describe(runs):
    """The last losses' mean, and the speed of every run."""
    last = runs[0].losses[-LINES:]
    speeds = "  ".join(f"{run.name} {run.speed():,.0f} char/s" for run in runs)
    return f"loss {sum(last) / len(last):#.4g}  {speeds}"


class Lines:
    """About twenty lines over the whole run, and one a minute if that is long."""

    def __init__(self, steps):
        self.steps, self.every = steps, max(1, steps // LINES)
        self.begin = self.printed = time.perf_counter()

    def show(self, done, runs):
        now = time.perf_counter()
        if done % self.every == 0 or done in (1, self.steps) or now > self.printed + 60:
            self.printed, width = now, len(str(self.steps))
            print(f"step {done:{width}}/{self.steps}  {now - self.begin:5.0f} s  {describe(runs)}", flush=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


class Bar:
    """One line that moves."""

    def __init__(self, steps, tqdm):
        form = "{percentage:3.0f}% {bar:20} {n_fmt}/{total_fmt}  {elapsed}<{remaining}  {postfix}"
        self.bar = tqdm(total=steps, bar_format=form, dynamic_ncols=True)

    def show(self, done, runs):
        self.bar.set_postfix_str(describe(runs), refresh=False)
        self.bar.update()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.bar.close()


def progress(steps):
    """A bar if a person is watching and tqdm is installed, else lines."""
    if sys.stderr.isatty():
        try:
            from tqdm import tqdm
        except ImportError:
            pass
        else:
            return Bar(steps, tqdm)
    return Lines(steps)
