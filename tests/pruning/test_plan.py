"""A plan survives its trip through JSON."""

import json

from prune_exp.pruning.plan import Allocation, PruningPlan, Reconstructed, Votes


def test_plan_survives_json() -> None:
    allocation = Allocation(
        layers=1, kv_groups=1, queries_per_group=0, channels=2, params_removed=99
    )
    plan = PruningPlan(
        sparsity_requested=0.3,
        vote_threshold=0.5,
        ballot="adaptive",
        allocation=allocation,
        layers=(2,),
        heads={0: (0, 1), 1: ()},
        channels={0: (3, 5), 1: (0, 4)},
        voters={"mlp": ("a", "b")},
        reconstructed=(Reconstructed(layer=1, removed_after=1, error_left=0.75),),
        agreement={"mlp": {"a": {"a": 1.0}}},
        votes={"mlp": Votes(depth=(0.5, 0.25), nominated={"a": (1.0, 0.5), "b": (0.0, 1.0)})},
    )
    assert PruningPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_a_plan_from_before_votes_were_kept_is_read() -> None:
    from support.plans import empty_plan

    data = empty_plan().to_json()
    del data["votes"]
    del data["reconstructed"]
    assert PruningPlan.from_json(data) == empty_plan()
