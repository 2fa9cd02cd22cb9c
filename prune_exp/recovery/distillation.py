"""The loss that teaches a pruned model the dense one's next-token distributions.

KL(dense || student), a few tokens at a time: logits of a whole batch [tokens, vocab] never exist
at once.
"""

from typing import Any

import torch

from prune_exp.model.next_tokens import CHUNK_TOKENS, NextTokens, split_tokens


def distillation_loss(
    dense: NextTokens, student: NextTokens, *, chunk: int = CHUNK_TOKENS
) -> torch.Tensor:
    """Mean KL(dense || student) per token in nats, differentiable in the student's tensors.

    The gradient with respect to a token's logits is the difference of the two distributions, so
    it is taken chunk by chunk while the logits are there, and nothing is computed twice.
    """
    return _ChunkedDivergence.apply(student.hidden, student.head, dense, chunk)  # pyright: ignore


class _ChunkedDivergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Any, head: Any, dense: NextTokens, chunk: int) -> Any:
        student = NextTokens(hidden=hidden, head=head.to(dense.head.dtype))
        total = hidden.new_zeros((), dtype=torch.float32)
        by_hidden = torch.empty_like(hidden)
        by_head = torch.zeros_like(head) if ctx.needs_input_grad[1] else None
        for rows in split_tokens(len(hidden), chunk):
            theirs = dense.log_probs(rows)
            ours = student.log_probs(rows)
            wanted = theirs.exp()
            total += theirs.sub_(ours).mul_(wanted).sum()
            slope = ours.exp_().sub_(wanted).div_(len(hidden)).to(student.head.dtype)
            by_hidden[rows] = (slope @ student.head).to(hidden.dtype)
            if by_head is not None:
                by_head += slope.T @ hidden[rows].to(slope.dtype)
        ctx.gradients = (by_hidden, by_head)
        return total / len(hidden)

    @staticmethod
    def backward(ctx: Any, *outputs: Any) -> Any:
        (scale,) = outputs
        by_hidden, by_head = ctx.gradients
        return by_hidden * scale, None if by_head is None else by_head * scale, None, None
