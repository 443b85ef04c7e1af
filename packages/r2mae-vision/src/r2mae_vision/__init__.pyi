from .celeba.data import CelebA, open_celeba
from .celeba.evaluate import attribute_probe, evaluate_unet
from .celeba.model import UNet
from .celeba.prepare import prepare_celeba
from .celeba.pretrain import load_unet, pretrain_unet, save_unet
from .data.pairs import open_pair
from .data.sources import open_source
from .data.store import ImageStore
from .mae.encoders import build_encoder, open_encoder
from .mae.fitting import load_published
from .mae.flops import forward_flops, train_flops
from .mae.masking import PatchSplit, pack_patches, split_patches
from .mae.model import MaskedAutoencoder
from .mae.shape import MAEShape
from .mae.timm_folder import export_timm
from .mae.transformers_folder import export_transformers
from .mae.weights import load_mae, save_mae
from .mnist.data import ImageData, load_images, read_idx
from .mnist.evaluate import effective_rank, embed, evaluate_members, linear_probe, masked_error
from .mnist.model import MLPAutoencoder
from .mnist.pretrain import Member, pretrain_members

__all__ = [
    "CelebA",
    "ImageData",
    "ImageStore",
    "MAEShape",
    "MLPAutoencoder",
    "MaskedAutoencoder",
    "Member",
    "PatchSplit",
    "UNet",
    "attribute_probe",
    "build_encoder",
    "effective_rank",
    "embed",
    "evaluate_members",
    "evaluate_unet",
    "export_timm",
    "export_transformers",
    "forward_flops",
    "linear_probe",
    "load_images",
    "load_mae",
    "load_published",
    "load_unet",
    "masked_error",
    "open_celeba",
    "open_encoder",
    "open_pair",
    "open_source",
    "pack_patches",
    "prepare_celeba",
    "pretrain_members",
    "pretrain_unet",
    "read_idx",
    "save_mae",
    "save_unet",
    "split_patches",
    "train_flops",
]
__version__: str
