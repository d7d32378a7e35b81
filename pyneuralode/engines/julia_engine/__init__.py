"""The Julia engine: for now only the probe that looks for a Julia to run it on."""
