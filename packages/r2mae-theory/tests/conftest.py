import os

# Small matrices: BLAS threads would only wait for each other, above all on a busy machine. Read when numpy is imported.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
