"""LU factorization of small dense matrices in compiled code."""

from .compilation import inlined_function


@inlined_function
def factorize(matrix, pivots):
    """Replace a square matrix by its factors L and U, computed with partial pivoting (row exchanges)."""
    n = len(pivots)
    for k in range(n):
        best = k
        for i in range(k + 1, n):
            if abs(matrix[i, k]) > abs(matrix[best, k]):
                best = i
        pivots[k] = best
        if best != k:
            for j in range(n):
                matrix[k, j], matrix[best, j] = matrix[best, j], matrix[k, j]
        scale = 1 / matrix[k, k]
        for i in range(k + 1, n):
            factor = matrix[i, k] * scale
            matrix[i, k] = factor
            if factor != 0:
                for j in range(k + 1, n):
                    matrix[i, j] -= factor * matrix[k, j]


@inlined_function
def solve(factors, pivots, x):
    """Solve A x = b in place, given the LU factors of A; on entry, x contains b."""
    n = len(pivots)
    for k in range(n):
        best = pivots[k]
        x[k], x[best] = x[best], x[k]
    for k in range(n):
        for i in range(k + 1, n):
            x[i] -= factors[i, k] * x[k]
    for k in range(n - 1, -1, -1):
        x[k] /= factors[k, k]
        for i in range(k):
            x[i] -= factors[i, k] * x[k]


@inlined_function
def solve_transposed(factors, pivots, x):
    """Solve A^T x = b in place, given the LU factors of A; on entry, x contains b."""
    n = len(pivots)
    for k in range(n):
        for i in range(k):
            x[k] -= factors[i, k] * x[i]
        x[k] /= factors[k, k]
    for k in range(n - 1, -1, -1):
        for i in range(k + 1, n):
            x[k] -= factors[i, k] * x[i]
    for k in range(n - 1, -1, -1):
        best = pivots[k]
        x[k], x[best] = x[best], x[k]
