"""One self-contained HTML page of a run or a comparison: charts to hover over, tables, examples."""
