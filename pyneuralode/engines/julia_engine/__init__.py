"""The Julia engine: SciML's solvers and adjoints through juliacall. Importing it starts nothing."""
