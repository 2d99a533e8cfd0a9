"""``wasm-sandbox bench``: what was promised about speed, measured here, beside the peers.

Theory of operation. A *benchmark* is a function that returns its *subjects*: contexts that make
everything ready and give a *turn*, a function that measures a moment and returns samples. A runner
gives each benchmark a process of its own (``child``), so that what one leaves behind, or does to
its process, is not in the figures of the next. There all subjects are made ready first and take
turns, so that a busy moment of the machine falls upon all of them alike (``measure``). Before and
after, a loop and a copy of memory are timed (``machine``): they tell a slower machine from slower
code. What comes back is a ``model.Report``: plain data, from which the table, the page with its
plots and the comparison of two runs are made.

A new row is a small function with ``@benchmark`` in one of the modules of ``registry.FAMILIES``.
"""
