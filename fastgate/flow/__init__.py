"""Instruments that show how gradients flow through time, and a regulariser that keeps them flowing.

    traces = flow.trace(layer, x)           a Trace for each layer and direction: states, and dL/dh_t at every step
    page = flow.report(layer, x, path=…)    one page of figures, and in words whether and where gradients vanish or explode

gradient_norms      ||dL/dh_t|| of each row and step
jacobian_norms      ||dh_t/dh_k||, by products with vectors: Golub-Kahan, no Jacobian is formed
bound               (gamma_u gamma_f)^(t-k), which that never exceeds in a plain recurrent cell
spectrum            eigenvalues and singular values of Wh, the growth that they predict
gates, saturation   values of the gates; the share of them at the ends of their range
time_constants      -1/ln f of each unit
product_variance    the variance of a signal after n random weights, scale by scale
omega               Pascanu's Omega and its gradient with respect to all weights
plot_…              a figure for each, with matplotlib, the extra `demo`

_trace.py runs a model    instruments.py measures    _omega.py    _dual.py  derivatives by running the definition    figures.py
_report.py  the page

All stands on the public functions: dL/dh_t comes from their backward pass (need=("dh_total", …)), and the gate math is that of
fastgate.reference. Arrays as everywhere: x (N, T, D), h (N, T, H), weights (D, G·H), (H, G·H). Sources are in the docstrings,
first of all Pascanu, Mikolov and Bengio (2013), arXiv:1211.5063, and Goodfellow et al., Deep Learning, sections 10.7 and 10.11;
docs/flow.md shows the instruments at work.
"""

from fastgate.flow._omega import Omega, omega
from fastgate.flow._report import Report, Verdict, report
from fastgate.flow._trace import Trace, trace
from fastgate.flow.figures import (
    plot_gradient_norms,
    plot_jacobian_norms,
    plot_omega,
    plot_product_variance,
    plot_saturation,
    plot_singular_values,
    plot_spectrum,
    plot_time_constants,
    save,
)
from fastgate.flow.instruments import (
    JacobianNorms,
    ProductVariance,
    Saturation,
    Spectrum,
    bound,
    gates,
    gradient_norms,
    jacobian_norms,
    product_variance,
    saturation,
    spectrum,
    time_constants,
)

__all__ = [
    "trace", "Trace",
    "gradient_norms", "jacobian_norms", "JacobianNorms", "bound", "spectrum", "Spectrum", "gates", "saturation", "Saturation",
    "time_constants", "product_variance", "ProductVariance",
    "omega", "Omega",
    "report", "Report", "Verdict",
    "plot_gradient_norms", "plot_jacobian_norms", "plot_spectrum", "plot_singular_values", "plot_saturation",
    "plot_time_constants", "plot_omega", "plot_product_variance", "save",
]  # fmt: skip
