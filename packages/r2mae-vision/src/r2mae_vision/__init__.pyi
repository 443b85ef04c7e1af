from .mnist.data import ImageData, load_images, read_idx
from .mnist.evaluate import effective_rank, embed, evaluate_members, linear_probe, masked_error
from .mnist.model import MLPAutoencoder
from .mnist.pretrain import Member, pretrain_members

__all__ = [
    "ImageData",
    "MLPAutoencoder",
    "Member",
    "effective_rank",
    "embed",
    "evaluate_members",
    "linear_probe",
    "load_images",
    "masked_error",
    "pretrain_members",
    "read_idx",
]
__version__: str
