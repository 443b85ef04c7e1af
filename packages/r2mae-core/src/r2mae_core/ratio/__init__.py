"""Which fraction of the input is hidden: samplers, named schemes, their config, and the randomness behind them."""
