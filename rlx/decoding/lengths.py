"""How many tokens a sample will still have: a small network that reads the model's own state while it decodes.

Source: TRAIL (arXiv 2410.01035). The state of one middle layer at the token just processed goes through one hidden
layer with a relu, to k = 10 equal bins of the remaining length over [0, decode.max_tokens]. A sample's beliefs are
filtered: what was believed before, moved by one token (mass 1/w from a bin of width w to the one below, and the lowest
keeps its own), times what the state says now. The prediction is the mean of the bins' middles under the belief.

Choices where sources differ:
1. A sample's first belief is that of the state at the prompt's last token: it is there when the prompt was passed, and
   needs no second model (the paper orders what has not begun by a classifier that reads the prompt's text).
2. The layer is the n/2-th of n, at least the first; the paper's best is 11 of 32. Its state, which no norm ends, is
   divided by its root mean square.
3. The hidden layer has `HIDDEN` units (the paper has 512 for 4,096 dimensions), and the rate is a constant 1e-3 (0.01
   falling to 0): what is learnt from moves with the policy, so that there is no last epoch.
4. Learning is online: of each rollout about `KEPT` states are kept, half of them at prompts' ends, chosen by the
   samples' keys, and the last `ROWS` of all are learnt from, in `STEPS` steps an iteration. So the rows that errors are
   measured on are always of requests that the network has not seen: a rollout's predictions are made before it is
   learnt from. Rows of one request are much alike, and a split between them would tell too good a tale: it is refused.
5. Where max_tokens is below k a bin is as wide as a token, and the highest stay empty.
6. The filter takes what each state says for evidence of its own, as the source does. States of neighbouring tokens say
   nearly the same, so that it becomes surer than it should: on search traces that a small model cannot foresee its
   error is above that of the state alone (scripts/bench/schedule.py).
7. A remaining length counts all that is passed: end mark and, in an interaction, replies.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from rlx.decoding.uniforms import uniforms
from rlx.errors import ConfigError

BINS = 10
"""Bins of the remaining length."""
HIDDEN = 128
"""Units of the network's hidden layer."""
KEPT = 2048
"""States that are kept of a rollout, on average at most."""
MOST_KEPT = 2 * KEPT
"""States that a rollout keeps at most, by chance more than are meant to be."""
ROWS = 8192
"""States that are learnt from: the last ones."""
STEPS = 16
"""Optimizer steps an iteration."""
BATCH = 256
"""States in a step."""
LEARNING_RATE = 1e-3
_CHOICE, _PART = 1 << 61, (1 << 61) + 1
"""Uniform numbers of a key that no token is drawn with are at steps from here on."""


@dataclass(slots=True, kw_only=True)
class Seen:
    """States of samples that are over."""

    states: Tensor
    """[R, D] float32."""
    left: Tensor
    """[R] int64, tokens that were still to come."""
    drawn: Tensor
    """[R] int64, tokens that there were; 0 at a prompt's end."""
    predicted: Tensor
    """[R] float32, what was predicted to come."""
    request: Tensor
    """[R] int64, the samples' keys."""

    def __len__(self) -> int:
        return len(self.left)

    def tensors(self) -> dict[str, Tensor]:
        """The fields by name."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def rows(self, index: Tensor | slice) -> "Seen":
        """Those in `index`."""
        return replace(self, **{name: tensor[index] for name, tensor in self.tensors().items()})

    def parted(self, share: float) -> tuple["Seen", "Seen"]:
        """All rows of about `share` of the requests, and all rows of the others."""
        mine = uniforms(self.request, _PART) < share
        return self.rows(mine), self.rows(~mine)

    @classmethod
    def joined(cls, parts: "Sequence[Seen]") -> "Seen":
        """One after the other."""
        found = [part.tensors() for part in parts]
        return cls(**{name: torch.cat([part[name] for part in found]) for name in found[0]})

    @classmethod
    def none(cls, width: int, device: torch.device) -> "Seen":
        """No rows of D = width."""
        whole = torch.zeros(0, dtype=torch.int64, device=device)
        some = torch.zeros(0, device=device)
        return cls(states=some.view(0, width), left=whole, drawn=whole, predicted=some, request=whole)


def check_apart(learnt: Seen, measured: Seen) -> None:
    """
    Raises:
        ConfigError: there are rows of one request in both.
    """
    shared = len(measured.request.unique()[torch.isin(measured.request.unique(), learnt.request)])
    if shared:
        raise ConfigError(
            f"{shared} requests have rows both among those learnt from and those measured: a split by step tells too "
            "good a tale; split by request"
        )


def middle_layer(layers: int) -> int:
    """Which layer's state is read, counted from 0."""
    return max(layers // 2, 1) - 1


class LengthProbe:
    """The network, and what it learns from.

    Args:
        width: D, of the states.
        most: tokens that a sample has at most.
        seed: of the weights and the order of learning.
    """

    def __init__(self, width: int, most: int, *, seed: int, device: torch.device) -> None:
        self.width, self.most, self.seed, self.device = width, most, seed, device
        self.bin = max(most / BINS, 1.0)
        """Tokens in a bin."""
        self.middles = (torch.arange(BINS, device=device) + 0.5) * self.bin  # [K]
        self.network = _network(width, seed).to(device)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
        self.kept = Seen.none(width, device)
        self.made = 0
        """Optimizer steps."""

    @property
    def flops(self) -> float:
        """Operations of one prediction."""
        return 2.0 * (self.width * HIDDEN + HIDDEN * BINS)

    def to(self, device: torch.device) -> None:
        """Go where the model is."""
        self.device, self.middles = device, self.middles.to(device)
        self.network.to(device)
        self.optimizer.load_state_dict(self.optimizer.state_dict())  # its tensors follow the weights
        self.kept = Seen(**{name: tensor.to(device) for name, tensor in self.kept.tensors().items()})

    def logits(self, states: Tensor) -> Tensor:
        """[R, K] of states [R, D]."""
        with torch.autocast(self.device.type, enabled=False):
            return self.network(nn.functional.rms_norm(states.float(), (self.width,)))

    def labels(self, left: Tensor) -> Tensor:
        """[R] int64, the bins of remaining lengths [R]."""
        return (left / self.bin).long().clamp(max=BINS - 1)

    def mean(self, belief: Tensor) -> Tensor:
        """[R] float32, tokens that beliefs [R, K] predict."""
        return belief @ self.middles

    def learn(self, seen: Seen) -> dict[str, float]:
        """Measure what was predicted of a rollout, and learn from it; metrics: the mean absolute error (tokens), and
        that of the best constant.

        Raises:
            ConfigError: a request was learnt from before.
        """
        if not len(seen):
            return {}
        check_apart(self.kept, seen)
        left = seen.left.float()
        figures = {
            "lengths/error": (seen.predicted - left).abs().mean().item(),
            "lengths/error_constant": (left - left.median()).abs().mean().item(),
        }
        self.kept = Seen.joined([self.kept, seen]).rows(slice(-ROWS, None))
        return {**figures, "lengths/loss": self.fit(STEPS)}

    @torch.enable_grad()
    def fit(self, steps: int) -> float:
        """Optimizer steps on what is kept; their mean loss (nats)."""
        total = 0.0
        for _ in range(steps):
            generator = torch.Generator().manual_seed((self.seed + self.made) % 2**63)
            rows = self.kept.rows(torch.randint(len(self.kept), (BATCH,), generator=generator).to(self.device))
            loss = nn.functional.cross_entropy(self.logits(rows.states), self.labels(rows.left))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.made += 1
            total += loss.item()
        return total / steps

    def forecast(self, requests: Tensor) -> "Forecast":
        """Of new samples with keys [N] int64."""
        return Forecast(self, requests)

    def state(self) -> dict[str, Any]:
        """Plain tensors and numbers, for trainer/state.pt."""
        return {
            "most": self.most,
            "made": self.made,
            "weights": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "kept": self.kept.tensors(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state; one of another width or most is left: its bins are others."""
        kept = Seen(**{name: tensor.to(self.device) for name, tensor in state["kept"].items()})
        if state["most"] != self.most or kept.states.shape[1] != self.width:
            return
        self.made, self.kept = state["made"], kept
        self.network.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])


class Forecast:
    """What is predicted of the N samples of a call, and what of it will be learnt from."""

    def __init__(self, probe: LengthProbe, requests: Tensor) -> None:
        self.idle = count = len(requests)
        """The place of a row without a sample."""
        self.probe = probe
        self.requests = torch.cat((requests, requests.new_zeros(1)))
        self.left = torch.full((count + 1,), probe.most / 2, device=requests.device)
        """[N + 1] float32, tokens that are predicted to be left."""
        self.first = self.left.clone()
        """[N + 1] float32, `left` at the prompt's end."""
        self._belief = torch.full((count + 1, BINS), 1 / BINS, device=requests.device)
        self._share = KEPT / 2 / max(count, 1)
        device = requests.device
        self._states = torch.zeros(MOST_KEPT + 1, probe.width, device=device)
        self._of = torch.zeros(2, MOST_KEPT + 1, dtype=torch.int64, device=device)
        """Places of the states that are kept, and tokens drawn by then; the last column is written to in vain."""
        self._at = torch.zeros(MOST_KEPT + 1, device=device)
        """Predictions made of them."""
        self._count = torch.zeros((), dtype=torch.int64, device=device)

    @property
    def knows(self) -> bool:
        """Something was learnt, so that predictions differ."""
        return self.probe.made > 0

    def begin(self, place: Tensor, states: Tensor) -> None:
        """The samples `place` [n] int64, of the states [n, D] at their prompts' ends."""
        if self.knows:
            self._believe(place, torch.softmax(self.probe.logits(states), -1))
            self.first[place] = self.left[place]
        self._keep(place, torch.zeros_like(place), states, self._share)

    def go_on(self, place: Tensor, drawn: Tensor, states: Tensor) -> None:
        """The samples `place` [n] int64 (or idle), which have `drawn` [n] tokens, of the states [n, D] at the
        last of them."""
        if self.knows:
            now = torch.softmax(self.probe.logits(states), -1)
            self._believe(place, filtered(self._belief[place], now, self.probe.bin))
        self._keep(place, drawn, states, self._share / self.probe.most)

    def _believe(self, place: Tensor, belief: Tensor) -> None:
        self._belief[place], self.left[place] = belief, self.probe.mean(belief)

    def _keep(self, place: Tensor, drawn: Tensor, states: Tensor, share: float) -> None:
        requests = self.requests[place]
        chosen = (uniforms(requests, _CHOICE + drawn) < share) & (place < self.idle)
        slot = torch.where(chosen, self._count + chosen.cumsum(0) - 1, MOST_KEPT).clamp(max=MOST_KEPT)
        self._states[slot], self._at[slot] = states.float(), self.left[place]
        self._of[0, slot], self._of[1, slot] = place, drawn
        self._count += chosen.sum()  # nothing is read back, so that a GPU is not waited for

    def seen(self, lengths: Tensor) -> Seen:
        """What was kept, once the samples' lengths [N] int64 are known."""
        count = min(int(self._count), MOST_KEPT)
        place, drawn = self._of[:, :count]
        return Seen(
            states=self._states[:count],
            left=lengths[place] - drawn,
            drawn=drawn,
            predicted=self._at[:count],
            request=self.requests[place],
        )


def filtered(belief: Tensor, now: Tensor, width: float) -> Tensor:
    """Beliefs [R, K] after one token more, of bins `width` (at least 1) wide, when the state says `now` [R, K]."""
    moved = belief / width
    before = belief - moved
    before[:, :-1] += moved[:, 1:]
    before[:, 0] += moved[:, 0]
    after = before * now
    total = after.sum(-1, keepdim=True)
    return torch.where(total > 0, after / total, now)  # what was ruled out to the last bit is believed anew


def _network(width: int, seed: int) -> nn.Sequential:
    """Weights from a generator of their own: the run's random numbers stay what they are."""
    generator = torch.Generator().manual_seed(seed)
    made = nn.Sequential(nn.Linear(width, HIDDEN, device="meta"), nn.ReLU(), nn.Linear(HIDDEN, BINS, device="meta"))
    made.to_empty(device="cpu")
    for parameter in made.parameters():
        scale = parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 0.0
        nn.init.normal_(parameter, std=scale, generator=generator)
    return made
