"""Counts in, batches out: the sparse store, the split, the atlases' layouts, and the simulator."""
