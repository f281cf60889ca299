"""What a recurrent cell computes, and whether its backward is right.

identify    probes a step function and names its cell, gate order, layout, biases, variant; prints the call that replaces it
certify     runs a forward/backward pair through finite differences and the cases in which hand-written code goes wrong

pair.py shapes.py    how a pair of functions is described and called
certificate.py       the checks; causes.py  guesses what a wrong gradient comes from
identification.py    what identify returns; stepping.py  how a step function is called
conventions.py       weights known: which reading of them gives the outputs
probing.py           weights hidden: they are read off the outputs
model.py             one step of every variant in NumPy
"""

from fastgate.check.certificate import Certificate, Check, Finding, certify
from fastgate.check.identification import Identification, identify

__all__ = ["identify", "certify", "Identification", "Certificate", "Check", "Finding"]
