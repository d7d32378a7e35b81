"""Compiled explicit solves of networks and the SEIR model, and their exact adjoint, using vector products."""

from .path import Networks

__all__ = ["Networks"]
