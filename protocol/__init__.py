"""What is said between the supervisor and its workers: pure data and pure functions, no I/O."""
