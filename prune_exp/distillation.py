"""KL divergence between two models' next-token distributions, from their final hidden states.

Logits of a few tokens at a time: those of a whole batch [tokens, vocab] never exist at once.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

CHUNK_TOKENS = 128


@dataclass(frozen=True, kw_only=True)
class Side:
    """One model: where its logits come from."""

    hidden: "torch.Tensor"
    """Final hidden states [tokens, hidden]."""
    head: "torch.Tensor"
    """Language-model head [vocab, hidden]."""

    def log_probs(self, start: int, chunk: int) -> "torch.Tensor":
        """Log-probabilities of `chunk` tokens [chunk, vocab] in fp32."""
        part = self.hidden[start : start + chunk].to(self.head.dtype)
        return (part @ self.head.T).float().log_softmax(-1)


def divergence(dense: Side, student: Side, *, chunk: int = CHUNK_TOKENS) -> float:
    """Summed KL(dense || student) over all tokens, in nats."""
    import torch

    total = 0.0
    with torch.no_grad():
        for start in range(0, len(dense.hidden), chunk):
            theirs, ours = dense.log_probs(start, chunk), student.log_probs(start, chunk)
            total += float((theirs.exp() * (theirs - ours)).sum())
    return total


def distillation_loss(dense: Side, student: Side, *, chunk: int = CHUNK_TOKENS) -> "torch.Tensor":
    """Mean KL(dense || student) per token in nats, differentiable in the student's tensors.

    The gradient with respect to a token's logits is the difference of the two distributions, so
    it is taken chunk by chunk while the logits are there, and nothing is computed twice.
    """
    return _chunked().apply(student.hidden, student.head, dense, chunk)


def _chunked() -> Any:
    """The autograd function, defined on first use since it needs torch."""
    import torch

    class ChunkedDivergence(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, hidden: Any, head: Any, dense: Side, chunk: int) -> Any:
            student = Side(hidden=hidden, head=head.to(dense.head.dtype))
            total, by_hidden = hidden.new_zeros((), dtype=torch.float32), torch.empty_like(hidden)
            by_head = torch.zeros_like(head) if ctx.needs_input_grad[1] else None
            for start in range(0, len(hidden), chunk):
                theirs, ours = dense.log_probs(start, chunk), student.log_probs(start, chunk)
                wanted = theirs.exp()
                total += theirs.sub_(ours).mul_(wanted).sum()
                slope = ours.exp_().sub_(wanted).div_(len(hidden)).to(student.head.dtype)
                rows = slice(start, start + chunk)
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

    return ChunkedDivergence
