"""What identify returns."""

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Identification:
    """The result of identify. bool(found): fastgate computes the same. str(found): the report.

    cell : "rnn", "leaky", "memory", "lstm", "gru", "lstm_norm", "gru_norm", or None where it is none of them
    gate_order : letters in the order of the blocks of the weights; None where no weights are known, or there is one
    layout : how weights multiply: "x @ Wx + h @ Wh", "Wx @ x + Wh @ h", "[x, h] @ W", "W @ [h, x]", …; None for hidden weights
    bias : "none", "one", "two", for a gru with reset "after" where b_n and bh_n sit, and which gates have one where not all do
    reset, update : of a gru, as the options of fastgate.gru_forward; None where outputs cannot tell
    activation : of rnn, leaky and memory; of the candidate of lstm and gru
    peephole : None, or the order of the three parts of the peephole weights, "ifo"
    alpha : of leaky units, the share of the state that is kept: a number, or an array (H,)
    output : of memory, "tanh" for h = tanh(c), "identity" for h = c
    projection : the width P of h, of an lstm with Wr
    eps : of a layer normalisation
    clip : {"cell_clip": v, "preact_clip": v}, those that there are
    call : source text of the fastgate call that reproduces the step; x, h, c and the weights under the user's names
    weights : those the call uses by **weights, where they were hidden and read off
    error : largest difference between step and call on fresh random inputs, relative to the largest value; where there is no
        call, between step and what is named here, in NumPy
    unmatched : sentences about what fastgate cannot reproduce; empty where all of it is
    notes : what could not be told apart, and what else is worth knowing
    """

    cell: str | None = None
    gate_order: str | None = None
    layout: str | None = None
    bias: str | None = None
    reset: str | None = None
    update: str | None = None
    activation: str | None = None
    peephole: str | None = None
    alpha: float | np.ndarray | None = None
    output: str | None = None
    projection: int | None = None
    eps: float | None = None
    clip: dict[str, float] = field(default_factory=dict)
    coupled: bool = False
    call: str = ""
    error: float | None = None
    unmatched: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    weights: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    called: str = ""
    tried: str = ""

    def __bool__(self) -> bool:
        return self.cell is not None and not self.unmatched

    def __str__(self) -> str:
        head = self.cell or f"none of what was tried: {self.tried}"
        if self.gate_order:
            head += f", gate order {self.gate_order}"
        lines = [head, f"  called      {self.called}"]
        for name in ("layout", "bias", "reset", "update", "activation", "peephole", "alpha", "output", "projection", "eps"):
            value = getattr(self, name)
            if isinstance(value, np.ndarray):
                value = f"one for each unit, {value.min():.6g} to {value.max():.6g}"
            if value is not None:
                lines.append(f"  {name:10}  {value}")
        if self.coupled:
            lines.append("  coupled     i = 1 - f")
        for name, value in self.clip.items():
            lines.append(f"  {name:10}  {value:g}")
        lines += [f"  cannot match: {words}" for words in self.unmatched]
        if self.call:
            lines += ["  the same in fastgate:", f"    {self.call}"]
        if self.error is not None:
            told = (
                ""
                if self.call
                else "fastgate has no call for it; computed in NumPy, what is named here has the step's numbers: "
            )
            lines.append(f"  {told}largest difference on random inputs: {self.error:.1e}")
        lines += [f"  note: {words}" for words in self.notes]
        return "\n".join(lines)
