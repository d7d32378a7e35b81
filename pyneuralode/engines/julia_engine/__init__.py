"""The Julia engine: SciML's solvers and adjoints through juliacall. Importing this package does not start Julia."""
