"""How far it is: a bar on a terminal (with rich), plain lines elsewhere."""

import sys
import time

LINES = 20


def describe(runs):
    """The mean of the last losses, and the speed of every run."""
    last = runs[0].losses[-LINES:]
    speeds = ", ".join(f"{run.name} {run.speed():,.0f} char/s" for run in runs)
    return f"loss {sum(last) / len(last):#.4g}  {speeds}"


class Lines:
    """About twenty lines over the whole run, and one a minute if that is long."""

    def __init__(self, steps):
        self.steps, self.every = steps, max(1, steps // LINES)
        self.begin = self.printed = time.perf_counter()

    def show(self, done, runs):
        now = time.perf_counter()
        if done % self.every == 0 or done in (1, self.steps) or now > self.printed + 60:
            self.printed, count = now, f"{done:{len(str(self.steps))}}/{self.steps}"
            print(f"step {count}  {now - self.begin:5.0f} s  {describe(runs)}", flush=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


class Silence:
    """For all ranks but one."""

    def show(self, done, runs):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


class Bar:
    """One line that moves."""

    def __init__(self, steps):
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        text = TextColumn("{task.description}")
        self.bar = Progress(BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn(compact=True), text)
        self.task = self.bar.add_task("", total=steps)

    def show(self, done, runs):
        self.bar.update(self.task, completed=done, description=describe(runs))

    def __enter__(self):
        self.bar.start()
        return self

    def __exit__(self, *_):
        self.bar.stop()


def progress(steps):
    """A bar if a person is watching and rich is installed, else lines."""
    if sys.stdout.isatty():
        try:
            return Bar(steps)
        except ImportError:
            pass
    return Lines(steps)
