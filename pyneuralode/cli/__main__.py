"""The command line as ``python -m pyneuralode.cli``, for launchers that start modules, such as torchrun."""

from . import main

main()
