"""Fresh weights. Everything is drawn in float64, gates in canonical order: one seed gives the same function in either dtype and
in any gate order."""

import numpy as np
from numpy.typing import NDArray


def glorot_uniform(rng: np.random.Generator, D: int, H: int) -> NDArray[np.float64]:
    """(D, H), uniform within ±√(6 / (D + H)): Glorot and Bengio (2010), equation 16."""
    limit = (6 / (D + H)) ** 0.5
    return rng.uniform(-limit, limit, (D, H))


def orthogonal(rng: np.random.Generator, P: int, H: int) -> NDArray[np.float64]:
    """(P, H), uniform among the matrices whose columns, or where P < H rows, are orthonormal: Saxe, McClelland and Ganguli
    (2014). The Q of a normal matrix, signs such that R has a positive diagonal (Mezzadri 2007). Its last bits are those of
    NumPy's LAPACK."""
    Q, R = np.linalg.qr(rng.standard_normal((max(P, H), min(P, H))))
    Q = Q * np.where(np.diagonal(R) < 0, -1.0, 1.0)
    return Q.T if P < H else Q
