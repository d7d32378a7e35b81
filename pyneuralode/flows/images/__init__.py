"""Normalizing flows of images."""
