"""The ideas that every r2mae package shares: mask-ratio samplers, masks, curriculum weights, and pretraining.

Names load on first use (`__init__.pyi` says from where), so `import r2mae_core` is quick: samplers and schemes need
no torch, masks and weights need torch, training needs Lightning.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.1.0"
