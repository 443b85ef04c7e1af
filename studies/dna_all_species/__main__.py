"""`python -m studies.dna_all_species OUT`."""

from studies.dna_all_species.study import main

main()
