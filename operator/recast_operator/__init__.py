"""The Recast operator: one level-triggered loop from a landed version to served traffic."""
