"""Right-hand sides of small systems, component by component; each library stacks them into its own vectors."""

from __future__ import annotations


def lotka_volterra(y, p):
    prey, predators = y
    return p[0] * prey - p[1] * prey * predators, -p[2] * predators + p[3] * prey * predators


def van_der_pol(y, p):
    x, v = y
    return v, p[0] * (1 - x * x) * v - x


def robertson(y, p):
    y1, y2, y3 = y
    slow, fast = p[0] * y1 - p[2] * y2 * y3, p[1] * y2 * y2
    return -slow, slow - fast, fast


SYSTEMS = {function.__name__: function for function in (lotka_volterra, van_der_pol, robertson)}
