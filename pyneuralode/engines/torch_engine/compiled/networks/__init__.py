"""Networks and the SEIR model: whole explicit solves and their exact adjoint, each evaluation a few vector products."""

from .path import Networks

__all__ = ["Networks"]
