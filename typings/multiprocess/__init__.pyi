# What the supervisor uses of multiprocess, which ships no types.
