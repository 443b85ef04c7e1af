from .r2mae import R2MAE

__all__ = ["R2MAE"]
__version__: str
