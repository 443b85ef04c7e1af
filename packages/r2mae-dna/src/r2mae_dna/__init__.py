"""r2mae-dna: alignment-aware DNA models (GPN-MSA) with any mask-ratio scheme.

The package is a placeholder today: it reserves the name and the room, and holds no model and no command yet.
"""
