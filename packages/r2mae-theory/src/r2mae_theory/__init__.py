"""The linear model behind mask-based pretraining: its exact risk for any covariance and any mask distribution.

Names load on first use (`__init__.pyi` says from where).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.2.0"
