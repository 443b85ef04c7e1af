from .celeba.data import CelebA, open_celeba, prepare_celeba
from .celeba.evaluate import attribute_probe, evaluate_unet
from .celeba.model import UNet
from .celeba.pretrain import load_unet, pretrain_unet, save_unet
from .mnist.data import ImageData, load_images, read_idx
from .mnist.evaluate import effective_rank, embed, evaluate_members, linear_probe, masked_error
from .mnist.model import MLPAutoencoder
from .mnist.pretrain import Member, pretrain_members

__all__ = [
    "CelebA",
    "ImageData",
    "MLPAutoencoder",
    "Member",
    "UNet",
    "attribute_probe",
    "effective_rank",
    "embed",
    "evaluate_members",
    "evaluate_unet",
    "linear_probe",
    "load_images",
    "load_unet",
    "masked_error",
    "open_celeba",
    "prepare_celeba",
    "pretrain_members",
    "pretrain_unet",
    "read_idx",
    "save_unet",
]
__version__: str
