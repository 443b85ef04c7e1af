"""Alignment-aware DNA models with any mask-ratio scheme. Names load on first use from the modules in `__init__.pyi`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.2.0"
