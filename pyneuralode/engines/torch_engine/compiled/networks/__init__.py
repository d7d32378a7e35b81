"""Networks and the SEIR model: whole explicit solves and their exact adjoint, by a few vector products per evaluation."""

from .path import Networks

__all__ = ["Networks"]
