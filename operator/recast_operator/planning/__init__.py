"""Pure decisions: a frozen snapshot and the time go in, a plan comes out. No I/O, no clock, no randomness."""
