"""MAE on timm's VisionTransformers (paper, 4.1 and C.5): pretraining, fine-tuning, probing, export."""
