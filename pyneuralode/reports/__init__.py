"""Reports: each computes published results again; a page shows our numbers beside the published ones."""
