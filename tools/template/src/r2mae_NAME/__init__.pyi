from .data import read_rows
from .evaluate import held_out_loss
from .model import RowAutoencoder, load_model, save_model
from .options import Pretrain
from .pretrain import pretrain

__all__ = ["Pretrain", "RowAutoencoder", "held_out_loss", "load_model", "pretrain", "read_rows", "save_model"]
__version__: str
