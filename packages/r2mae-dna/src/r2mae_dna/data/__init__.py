"""From MAF and VCF files to what the network reads: stores, windows, sites; and the bundled samples."""
