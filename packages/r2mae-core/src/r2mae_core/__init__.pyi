from .lab.bounds import Bound, Count, Natural, NonNegative, Positive, Seed, Share, Workers, check_bounds
from .lab.command_words import recipes
from .lab.commands import Command, Compare, print_comparison, refuse_options, run, show_table
from .lab.comparison import ComparisonTable, Direction, compare, compare_runs, competition_ranks
from .lab.contents import VERIFIED, Contents, check_contents, contents_of, identity_of_contents
from .lab.control import NO_PRETRAINING, SHUFFLED_WEIGHTS, Margin, PositiveControl, positive_control
from .lab.errors import InterruptedTrainingError, LostTrainingError, UserError
from .lab.figures import new_figure, png_of, save_figure, scheme_style
from .lab.files import atomic_path, read_text, reading, remove_leftovers, whole_folder, write_text
from .lab.grid import cell_name, finished_records, walk_grid
from .lab.locks import BusyError, one_writer
from .lab.metrics_file import read_metrics
from .lab.outputs import check_output
from .lab.records import Record, read_records, write_records
from .lab.run_folder import RunFolder, default_run_path, open_run, page_line, resolved, unfinished
from .lab.sealed import (
    SUMS,
    as_json,
    check_checksums,
    file_digest,
    read_json,
    read_yaml,
    write_checksums,
    write_json,
    write_yaml,
)
from .lab.sources import fingerprint, refuse_changed
from .lab.space import check_space, reserve, saying_disk_full
from .lab.stamps import git_commit, stamped, versions
from .lab.terminal import first_rank, left_out, pasteable, say
from .lab.workers import end_with_caller, in_processes
from .mask import numpy_masks
from .mask.counts import n_masked
from .mask.curriculum import CurriculumWeights, sinkhorn, weighted_mean
from .mask.losses import counted_ratio, inverse_ratio_loss
from .mask.masks import bernoulli_mask, exact_mask, hide_lowest, nested_masks, row_counts
from .mask.shapes import Groups, block_mask, block_scores, group_mask, span_mask, span_scores
from .pages.command import Reporter, write_page, write_page_command
from .pages.examples import Example
from .pages.options import Page
from .ratio.config import (
    name_of_scheme,
    sampler_from_config,
    sampler_to_config,
    scheme_name,
    short_name,
    with_seed,
)
from .ratio.densities import Arccos, Beta, Choice, Power, Ramp
from .ratio.protocol import MaskRatioSampler, RatioSampler
from .ratio.randomness import derived_seed, uniform_draw, uniform_draws
from .ratio.samplers import Curriculum, Fixed, Grid, Uniform, has_quantile
from .ratio.schedules import Cosine, LinearDecay, Phases, PiecewiseLinear, Slope
from .ratio.schemes import register_modality, register_scheme, scheme, scheme_names
from .ratio.truncated_normal import TruncatedNormal
from .share.hub import fetch, folder_or_fetched, hub_errors, hub_library
from .share.model_card import CardFacts, model_card
from .share.options import PushOptions
from .share.pretrained import SharedModel
from .share.push import push
from .share.run_summary import EvaluationRow, RunSummary, evaluation_rows, run_summary
from .sweep.arms import Arm, arms_of
from .sweep.command import run_sweep
from .sweep.nested import options_as_words, typed_options
from .sweep.options import SweepOptions
from .sweep.search import SHORTEST
from .train.callbacks import LoaderPosition, StepProgress, Throughput, operations_metrics
from .train.checkpoints import AtomicCheckpoints, read_weights
from .train.data_order import BatchOrder, ResumableLoader, StepOrder, micro_batch_size, of_worker, permutation
from .train.devices import (
    device_name,
    emulates_bfloat16,
    one_thread,
    out_of_memory,
    peak_flops,
    precision,
    resolve_device,
    seconds_of,
)
from .train.finite_loss import FiniteLoss
from .train.identities import run_identities, run_identity, scheme_in_tables
from .train.in_order import InOrder, spread
from .train.masked_module import MaskDraw, MaskedModule, seed_device
from .train.metrics_csv import MetricsCSV
from .train.optimizers import adamw, cosine, decay_groups, linear, with_schedule
from .train.options import Device, LossWeight, Precision, PretrainOptions, RatioPer, RunOptions, Strategy, Tracker
from .train.permuted_weights import permute_weights
from .train.pretraining import HeldOutLoss, Modality, run_pretraining, without_prefix
from .train.ranks import rank_and_world_size
from .train.sharding import gathered_state
from .train.step_checkpoints import KeepBest, StepCheckpoints
from .train.tensor_files import load_tensors, save_tensors
from .train.trackers import check_tracker, logging_to
from .train.training import fit, interrupted, matrix_products, quiet_lightning

__all__ = [
    "NO_PRETRAINING",
    "SHORTEST",
    "SHUFFLED_WEIGHTS",
    "SUMS",
    "VERIFIED",
    "Arccos",
    "Arm",
    "AtomicCheckpoints",
    "BatchOrder",
    "Beta",
    "Bound",
    "BusyError",
    "CardFacts",
    "Choice",
    "Command",
    "Compare",
    "ComparisonTable",
    "Contents",
    "Cosine",
    "Count",
    "Curriculum",
    "CurriculumWeights",
    "Device",
    "Direction",
    "EvaluationRow",
    "Example",
    "FiniteLoss",
    "Fixed",
    "Grid",
    "Groups",
    "HeldOutLoss",
    "InOrder",
    "InterruptedTrainingError",
    "KeepBest",
    "LinearDecay",
    "LoaderPosition",
    "LossWeight",
    "LostTrainingError",
    "Margin",
    "MaskDraw",
    "MaskRatioSampler",
    "MaskedModule",
    "MetricsCSV",
    "Modality",
    "Natural",
    "NonNegative",
    "Page",
    "Phases",
    "PiecewiseLinear",
    "Positive",
    "PositiveControl",
    "Power",
    "Precision",
    "PretrainOptions",
    "PushOptions",
    "Ramp",
    "RatioPer",
    "RatioSampler",
    "Record",
    "Reporter",
    "ResumableLoader",
    "RunFolder",
    "RunOptions",
    "RunSummary",
    "Seed",
    "Share",
    "SharedModel",
    "Slope",
    "StepCheckpoints",
    "StepOrder",
    "StepProgress",
    "Strategy",
    "SweepOptions",
    "Throughput",
    "Tracker",
    "TruncatedNormal",
    "Uniform",
    "UserError",
    "Workers",
    "adamw",
    "arms_of",
    "as_json",
    "atomic_path",
    "bernoulli_mask",
    "block_mask",
    "block_scores",
    "cell_name",
    "check_bounds",
    "check_checksums",
    "check_contents",
    "check_output",
    "check_space",
    "check_tracker",
    "compare",
    "compare_runs",
    "competition_ranks",
    "contents_of",
    "cosine",
    "counted_ratio",
    "decay_groups",
    "default_run_path",
    "derived_seed",
    "device_name",
    "emulates_bfloat16",
    "end_with_caller",
    "evaluation_rows",
    "exact_mask",
    "fetch",
    "file_digest",
    "fingerprint",
    "finished_records",
    "first_rank",
    "fit",
    "folder_or_fetched",
    "gathered_state",
    "git_commit",
    "group_mask",
    "has_quantile",
    "hide_lowest",
    "hub_errors",
    "hub_library",
    "identity_of_contents",
    "in_processes",
    "interrupted",
    "inverse_ratio_loss",
    "left_out",
    "linear",
    "load_tensors",
    "logging_to",
    "matrix_products",
    "micro_batch_size",
    "model_card",
    "n_masked",
    "name_of_scheme",
    "nested_masks",
    "new_figure",
    "numpy_masks",
    "of_worker",
    "one_thread",
    "one_writer",
    "open_run",
    "operations_metrics",
    "options_as_words",
    "out_of_memory",
    "page_line",
    "pasteable",
    "peak_flops",
    "permutation",
    "permute_weights",
    "png_of",
    "positive_control",
    "precision",
    "print_comparison",
    "push",
    "quiet_lightning",
    "rank_and_world_size",
    "read_json",
    "read_metrics",
    "read_records",
    "read_text",
    "read_weights",
    "read_yaml",
    "reading",
    "recipes",
    "refuse_changed",
    "refuse_options",
    "register_modality",
    "register_scheme",
    "remove_leftovers",
    "reserve",
    "resolve_device",
    "resolved",
    "row_counts",
    "run",
    "run_identities",
    "run_identity",
    "run_pretraining",
    "run_summary",
    "run_sweep",
    "sampler_from_config",
    "sampler_to_config",
    "save_figure",
    "save_tensors",
    "say",
    "saying_disk_full",
    "scheme",
    "scheme_in_tables",
    "scheme_name",
    "scheme_names",
    "scheme_style",
    "seconds_of",
    "seed_device",
    "short_name",
    "show_table",
    "sinkhorn",
    "span_mask",
    "span_scores",
    "spread",
    "stamped",
    "typed_options",
    "unfinished",
    "uniform_draw",
    "uniform_draws",
    "versions",
    "walk_grid",
    "weighted_mean",
    "whole_folder",
    "with_schedule",
    "with_seed",
    "without_prefix",
    "write_checksums",
    "write_json",
    "write_page",
    "write_page_command",
    "write_records",
    "write_text",
    "write_yaml",
]
