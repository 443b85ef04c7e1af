"""The paper's CelebA experiment (section 3.5, C.4): a U-Net, pixel masks, reconstruction and attribute probe."""
