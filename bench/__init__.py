"""Measures fastgate beside its peers: `python -m bench --help`.

timer.py        the one timer: contenders in one process, in alternating bursts
run.py          one run: every contender proven right, then timed
grid.py         the shapes that are measured
cases.py        the arrays of one shape, its exact result, the comparison with it
contenders/     fastgate and its peers, one file each
machine.py      what this machine is, and what it can reach
record.py       what was measured, as the JSON file keeps it
report.py       the tables
picture.py      the picture
update_readme.py  the table in README.md
"""
