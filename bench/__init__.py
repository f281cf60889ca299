"""Measures fastgate beside its peers: `python -m bench --help`.

timer.py        the one timer: contenders in one process, in alternating bursts
run.py          one run: every contender proven right, then timed
grid.py         the rows that are measured, in groups
cases.py        the arrays of one call, its exact result, the comparison with it
clip.py         the same for a list of gradients     values.py  values that slow kernels down
contenders/     fastgate and its peers, one file each
machine.py      what this machine is, and what it can reach (peak.c, by compiled.py)
memory.py       peak memory of a call                process.py  fresh processes, threads
record.py       what was measured, as the JSON file keeps it
report.py       the tables
picture.py      the pictures: bars.py, roofline.py, heat.py, in one style.py
compare.py      what changed between two JSON files
count.py        instructions instead of time (count.c)
update_readme.py  the table in README.md
swap.py         code before and after fastgate is swapped in: python -m bench.swap, the table in docs/swap-it-in.md
torch_training.py  training in PyTorch, before and after accelerate(model): the table in docs/swap/pytorch.md
"""
