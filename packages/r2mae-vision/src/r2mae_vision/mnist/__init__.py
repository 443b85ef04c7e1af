"""The paper's MNIST experiment: stacks of small MLP autoencoders (C.3, figures 2A and 2D)."""
