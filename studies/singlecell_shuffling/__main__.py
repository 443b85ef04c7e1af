"""`python -m studies.singlecell_shuffling OUT`."""

from studies.singlecell_shuffling.study import main

main()
