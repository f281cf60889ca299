"""What a recurrent cell computes, and whether its backward is right.

identify    probes a step function and names its cell, gate order, layout, biases, variant; prints the call that replaces it
certify     runs a forward/backward pair through finite differences and the cases in which hand-written code goes wrong

pair.py shapes.py    how a pair of functions is described and called
certificate.py       the checks of certify; report.py  what it returns; causes.py  guesses what a wrong gradient comes from
cli.py               python -m fastgate certify
identification.py    identify; found.py  what it returns; stepping.py  how a step function is called
readings.py          weights known: what their shapes allow them to be; conventions.py norms.py  which reading gives the outputs
probing*.py          weights hidden: they are read off the outputs
model.py             one step of every variant in NumPy
"""

from fastgate.check.certificate import certify
from fastgate.check.found import Identification
from fastgate.check.identification import identify
from fastgate.check.report import Certificate, Check, Finding

__all__ = ["identify", "certify", "Identification", "Certificate", "Check", "Finding"]
