"""What must work where numpy is the only other package; run by itself, also on the built wheel.

`python bare.py installed` also checks that nothing else is installed.
"""

import sys
import time
from importlib.abc import MetaPathFinder

NEEDS_MODALITY = {"fixed", "dynamic", "r2mae", "r2mae+dynamic", "cl", "cl-k0", "r2mae+cl", "r2mae+cl-k0"}
"""They have no ratios without one."""
ALLOWED = {"numpy", "r2mae_core", *sys.stdlib_module_names}


class NumpyAlone(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in ALLOWED and path is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


def main(installed):
    sys.meta_path.insert(0, NumpyAlone())
    before = {name.partition(".")[0] for name in sys.modules}
    start = time.perf_counter()
    import r2mae_core

    seconds = time.perf_counter() - start
    brought = {name.partition(".")[0] for name in sys.modules} - before - set(sys.stdlib_module_names)
    assert brought == {"r2mae_core"}, brought
    if installed:
        from importlib.metadata import distributions

        found = {distribution.metadata["Name"].lower() for distribution in distributions()} - {"pip", "setuptools"}
        assert found == {"numpy", "r2mae-core"}, found

    from r2mae_core import Phases, Uniform, n_masked, numpy_masks, sampler_from_config, scheme, scheme_names

    total = 50
    for modality in (None, "vision", "text", "dna", "singlecell"):
        for name in scheme_names(modality):
            if modality is None and name in NEEDS_MODALITY:
                continue
            sampler = scheme(name, modality)
            config = r2mae_core.sampler_to_config(sampler)
            assert sampler_from_config(config) == sampler
            for step in range(total):
                low, high = sampler.bounds(step, total)
                assert low <= sampler.sample(step, total) <= high
    sampler = Phases((Uniform(0.2, 0.6, 1), 0.15), (9, 1))
    for step in range(total):
        ratios = sampler.samples(step, total, n=8)
        rng = numpy_masks.step_generator(0, step)
        mask = numpy_masks.exact_mask((8, 64), ratios, rng=rng)
        assert mask.sum(-1).tolist() == [n_masked(ratio, 64) for ratio in ratios]
    for name, extra in (("exact_mask", "torch"), ("MaskedModule", "train"), ("run", "cli")):
        try:
            message = str(getattr(r2mae_core, name))
        except ModuleNotFoundError as error:
            message = str(error)
        assert f"pip install 'r2mae-core[{extra}]'" in message, message
    sys.stdout.write(f"numpy alone: all is well; the import took {seconds:.3f} s\n")


if __name__ == "__main__":
    main("installed" in sys.argv)
