"""Structures over the cells: layers put together, weights and gradients of all of it in one flat array each.

designs.py           OutputEveryStep, OutputRecurrence, FinalOutput: the three designs of the textbook
_structure.py        what all share: layers in one buffer, judged arguments, a cell run step by step
"""

from fastgate.layers._parameters import load
from fastgate.structures.designs import FinalOutput, OutputEveryStep, OutputRecurrence

__all__ = ["OutputEveryStep", "OutputRecurrence", "FinalOutput", "load"]
