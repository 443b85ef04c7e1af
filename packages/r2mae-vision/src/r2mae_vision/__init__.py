"""Masked image models with any mask-ratio scheme. Names load on first use (`__init__.pyi` states from where)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.2.0"
