"""wip"""
from fastgate.flow._trace import Trace, trace
from fastgate.flow.instruments import *
from fastgate.flow.omega import *
