"""r2mae-singlecell: masked models of gene expression with an scvi-tools-style API.

The package is a placeholder today: it reserves the name and the room, and holds no model and no command yet.
"""
