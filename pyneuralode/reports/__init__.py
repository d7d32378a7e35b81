"""Reports, each of which recomputes published results; a page shows our numbers next to the published ones."""
