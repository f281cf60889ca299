"""Structures over the cells: layers put together, weights and gradients of all of it in one flat array each.

designs.py           OutputEveryStep, OutputRecurrence, FinalOutput: the three designs of the textbook
encoder_decoder.py   EncoderDecoder, by the initial state, by an input, by attention; SequenceAutoencoder
transition.py        DeepTransition: several micro-steps for each step
missing.py           MissingValues: a mask, the last value carried on, learned decays
_attention.py        additive and dot
_structure.py        what all share: layers in one buffer, judged arguments, a cell run step by step
"""

from fastgate.layers import load
from fastgate.structures.designs import FinalOutput, OutputEveryStep, OutputRecurrence
from fastgate.structures.encoder_decoder import EncoderDecoder, SequenceAutoencoder
from fastgate.structures.missing import MissingValues, intervals
from fastgate.structures.transition import DeepTransition

__all__ = [
    "OutputEveryStep", "OutputRecurrence", "FinalOutput",
    "EncoderDecoder", "SequenceAutoencoder",
    "DeepTransition",
    "MissingValues", "intervals",
    "load",
]  # fmt: skip
