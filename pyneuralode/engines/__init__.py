"""The engines that carry out solves, gradients and fits."""
