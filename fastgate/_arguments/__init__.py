# ruff: noqa: F401 (what the rest of the package reaches by `_arguments.`)
"""The only place that words an error; it judges every argument, but for plain calls, which _kernels knows at the speed of C.

forward_call    one call of a cell: whole sequences, single steps, ragged batches on flat rows
backward_call   is this the cache that the forward twin returned? what arrives, and `need=`
around          what goes around any cell: delays, periods, masks
out             `out=`, and what of the arguments it overlaps
options         options in words, booleans, real numbers
prepared        the weights of a prepared cell
clipping        what clipping writes into
cross_entropy   the arguments of the loss
words           how a message names what was expected and what came

Everything is judged before anything is computed or written. A plain call (native, aligned, C-ordered ndarrays) passes
through one chain of comparisons; every other call goes to a function whose name ends in `_in_words`, which either
prepares the arrays (foreign byte order, misaligned data, last axis not contiguous: a copy with the same values) or
raises. Shapes, lengths and names that do not fit are a ValueError, dtypes and kinds a TypeError, sizes that no memory
holds an OverflowError or MemoryError. The message begins with the name of the argument.
"""

from fastgate._arguments.around import (
    Masks,
    Rhythm,
    _delays,
    _past_shape,
    _periods,
    _step_number,
    delays_of,
    first_merge,
    states_shape,
)
from fastgate._arguments.backward_call import backward, cache, cache_in_words, function_name, gradient_names
from fastgate._arguments.clipping import finite_norm, gradients
from fastgate._arguments.cross_entropy import loss
from fastgate._arguments.forward_call import Forward, Norm, _lengths, forward, gate_positions, memory_too_small
from fastgate._arguments.options import bound, class_name, drawing, dtype, eps, flag, leak, number, option, time_constants
from fastgate._arguments.out import in_place, outputs, past_in_place
from fastgate._arguments.prepared import Weights, weights
from fastgate._arguments.words import (
    KERNEL,
    REFERENCE,
    _affordable,
    _array,
    _ask,
    _bracket,
    _direct,
    _integers,
    _kind,
    _listed,
    _memory,
    _ndarray,
    _shape,
)
