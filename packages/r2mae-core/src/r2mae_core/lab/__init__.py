"""Around every experiment: the command line, run folders, records, tables and grids. Nothing here imports torch."""
