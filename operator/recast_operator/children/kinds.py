"""The kinds of object that a model's servers consist of, training aside."""

from __future__ import annotations

from typing import Literal, get_args

CompanionKind = Literal["Service", "PodDisruptionBudget", "NetworkPolicy"]
"""What stands beside the pods: it is applied, repaired and deleted, and never scaled."""
ChildKind = Literal["Deployment", CompanionKind]
COMPANIONS: tuple[CompanionKind, ...] = get_args(CompanionKind)
CHILD_KINDS: tuple[ChildKind, ...] = ("Deployment", *COMPANIONS)
"""All that are applied with a record (:mod:`recast_operator.children.record`)."""
