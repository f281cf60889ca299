"""What a recurrent cell computes, and whether its backward is right.

identify    probes a step function and names its cell, gate order, layout, biases, variant; prints the call that replaces it
certify     runs a forward/backward pair through finite differences and the cases in which hand-written code goes wrong

pair.py shapes.py    how a pair of functions is described and called
certificate.py       the checks; causes.py  guesses what a wrong gradient comes from
identification.py    conventions.py, weights known: which of them reproduces the step; probing.py, weights hidden: reads them off
model.py             one step of every variant in NumPy
"""

from fastgate.check.certificate import Certificate, Check, Finding, certify

__all__ = ["certify", "Certificate", "Check", "Finding"]
